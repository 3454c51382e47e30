"""Jina's `dynamic_batching` configuration, as this service reads it.

Jina's own queue cuts batches by timer while the device is busy, makes a lone request wait and fails a whole batch for
one document. So the Executor takes the configuration over and leaves Jina's queue nothing to do; the keys and where
they are written (config.yml, decorator, `uses_dynamic_batching=`) stay Jina's. Knows the section; imports no Jina.
"""

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from executor.errors import StartupError
from executor.validation import nearest


class BatchingOptions(BaseModel):
    """Says how documents travel together through the device."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    preferred_batch_size: int = Field(default=16, ge=1, le=1024, description="most documents in one pass")
    timeout: float = Field(
        default=2.0, ge=0, le=10_000, description="ms that a document waits for company while the device is idle"
    )

    @classmethod
    def resolve(cls, configured: Mapping[str, Any], endpoints: Collection[str]) -> "BatchingOptions":
        """Reads the options of the queue, which all endpoints share. Where several are configured, the last one counts.

        Args:
            configured: endpoint name -> mapping, as in config.yml's `dynamic_batching`.
            endpoints: all names that there are.

        Raises:
            StartupError: an unknown endpoint or key, or a value out of range; the message names it.
        """
        chosen = cls()
        for endpoint, entry in configured.items():
            if endpoint not in endpoints:
                raise StartupError(
                    f"dynamic_batching: there is no endpoint '{endpoint}'{nearest(endpoint, list(endpoints))}"
                )
            chosen = cls._parse(endpoint, entry)
        return chosen

    @classmethod
    def _parse(cls, endpoint: str, entry: Any) -> "BatchingOptions":
        if not isinstance(entry, Mapping):
            raise StartupError(f"dynamic_batching of '{endpoint}' must be a mapping with {', '.join(cls.model_fields)}")
        # What Jina's decorator adds at its default says nothing; switched on, it would change what a batch means.
        values = {key: value for key, value in entry.items() if not (key in _JINA_ONLY and not value)}
        if values.pop("use_dynamic_batching", True) is False:
            values["preferred_batch_size"] = 1
        for key in values:
            if key in _JINA_ONLY:
                raise StartupError(f"dynamic_batching of '{endpoint}': '{key}' is not supported")
            if key not in cls.model_fields:
                raise StartupError(
                    f"dynamic_batching of '{endpoint}': unknown key '{key}'{nearest(key, list(cls.model_fields))}"
                )
        try:
            return cls(**values)
        except ValidationError as error:
            finding = error.errors()[0]
            raise StartupError(
                f"dynamic_batching of '{endpoint}': '{finding['loc'][0]}' is {finding['input']!r}: {finding['msg']}"
            ) from None


_JINA_ONLY = ("flush_all", "use_custom_metric", "custom_metric")
