"""Every setting of the service: name, type, range, default.

A setting comes from, in falling priority: the environment (`BLIP2_<NAME>`), `uses_with=`, `with:` of config.yml, the
default here. Both `uses_with=` and `with:` arrive as keywords of `Blip2Executor`. An unknown or invalid setting ends
the start with an error that names it.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, create_model, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from executor.errors import DocumentError, StartupError
from executor.pictures.addresses import AddressPolicy
from executor.pictures.limits import PILLOW_MAX_PIXELS, ImageLimits
from executor.pictures.local_files import LocalFiles
from executor.questions.options import OPTION_NAMES, GenerationOptions
from executor.questions.presets import PRESETS, Generation, PresetName
from executor.validation import describe_setting, describe_unknown, is_origin

ENV_PREFIX = "BLIP2_"
_MOST_THREADS = 512
"""More than the cores of one machine; thousands take what its other programs need to start."""
_SECRET = ("auth_tokens", "otlp_endpoint")
"""Their values are not repeated in errors: an address may have a password in it."""
_NEVER_EMPTY = ("auth_tokens", "auth_tokens_file", "tls_cert", "tls_key", "tls_client_ca")
"""A secret that was meant to be set, and is not, must not open the service."""


if TYPE_CHECKING:
    _GenerationDefaults = BaseSettings
else:
    _GenerationDefaults = create_model(
        "_GenerationDefaults",
        __base__=BaseSettings,
        **{
            name: (field.annotation | None, FieldInfo.merge_field_infos(field, default=None))
            for name, field in GenerationOptions.model_fields.items()
        },
    )


class Settings(_GenerationDefaults):
    """Holds every setting: the `with:` keys of config.yml.

    Beside what stands here there are the fields of `GenerationOptions`, which change the preset for every document;
    where they are None, the preset's value counts.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, env_prefix=ENV_PREFIX, env_ignore_empty=True
    )

    model: str = Field(
        default="Salesforce/blip2-flan-t5-xl",
        min_length=1,
        description="checkpoint of BLIP-2 with T5 or OPT: hub id or local directory",
    )
    revision: str = Field(default="main", description="branch, tag or commit of a hub checkpoint")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="where the model runs: auto (CUDA where there is any), cpu, cuda, cuda:1",
    )
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = Field(
        default="auto", description="number format of the weights; auto is float16 on CUDA and float32 on CPU"
    )
    device_map: Literal["none", "auto", "balanced", "sequential"] = Field(
        default="none",
        description="how accelerate spreads one model over all GPUs; none: the model is on `device` alone",
    )
    quantization: Literal["none", "int8", "int4"] = Field(
        default="none",
        description="bits of the linear layers' weights, by bitsandbytes (extra `quantized`); int4 is NF4",
    )
    compile: Literal["off", "graphs", "max"] = Field(
        default="graphs",
        description="on CUDA: off; graphs, one CUDA graph for each shape of batch, captured before the service "
        "is ready; max, compiled by TorchInductor before that, which takes minutes. What is not "
        "possible falls back, with one line in the log",
    )
    preset: PresetName = Field(
        default="article", description="how documents are answered that do not choose for themselves"
    )
    prompt_template: str | None = Field(
        default=None, description="what a bare question is put into, at its {}; none: the template of the preset"
    )
    max_prompt_tokens: int = Field(default=512, ge=1, le=2048, description="longest prompt, in tokens")
    max_queue: int = Field(
        default=1024,
        ge=1,
        description="documents in the service at a time, from the loading of their pictures to their answers",
    )
    max_queue_mb: int = Field(default=512, ge=1, description="megabytes of requests in the service at a time")
    max_message_mb: int = Field(default=32, ge=1, le=1024, description="largest request, in megabytes of 2**20 bytes")
    max_calls: int = Field(default=2048, ge=1, description="gRPC calls in progress at a time, besides health checks")
    health_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="port with health checks alone, in plaintext, for probes that cannot speak TLS, such as "
        "Kubernetes'",
    )
    metrics_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="port with metrics for Prometheus at /metrics, over HTTP, open to whoever reaches it; none: "
        "nothing is counted. Each replica of a Deployment takes the first port that is free from "
        "this one on",
    )
    otlp_endpoint: str | None = Field(
        default=None,
        description="collector that traces are sent to, OTLP over gRPC, such as http://localhost:4317; none: no traces",
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="form of the log: text, or a JSON object on each line"
    )
    drain_timeout_s: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="longest wait, in seconds, for what is in progress when the service ends",
    )
    auth_tokens: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(),
        description="bearer tokens, one of which every call must have; none, here and in the file: whoever "
        "reaches the port may call",
    )
    auth_tokens_file: Path | None = Field(
        default=None, description="file with a bearer token on each line; read again when it changes"
    )
    tls_cert: Path | None = Field(default=None, description="PEM file with the server's certificates; none: no TLS")
    tls_key: Path | None = Field(default=None, description="PEM file with the key of tls_cert")
    tls_client_ca: Path | None = Field(
        default=None,
        description="PEM file with what must have signed the clients' certificates; none: no client "
        "certificates are asked for",
    )
    feature_cache_mb: int = Field(
        default=256,
        ge=0,
        description="megabytes of image features kept on the device, so that many questions about one picture "
        "encode it once; 0 keeps none",
    )
    max_image_bytes: int = Field(
        default=ImageLimits.max_image_bytes,
        ge=1,
        description="largest encoded picture, in bytes, counted while they arrive and again after decompression",
    )
    max_image_pixels: int = Field(
        default=ImageLimits.max_image_pixels,
        ge=1,
        le=PILLOW_MAX_PIXELS,
        description="largest picture, width x height, from its header, before anything is decoded",
    )
    max_image_side: int = Field(
        default=ImageLimits.max_image_side,
        ge=1,
        le=65_535,
        description="largest width and largest height, in pixels",
    )
    fetch_timeout_s: float = Field(
        default=ImageLimits.fetch_timeout_s,
        gt=0,
        le=600,
        description="longest fetch of a picture, in seconds: one deadline for waiting for a slot, DNS, "
        "connecting, all redirects and the last byte",
    )
    max_redirects: int = Field(
        default=ImageLimits.max_redirects,
        ge=0,
        le=20,
        description="redirects that a fetch follows",
    )
    max_fetches: int = Field(
        default=ImageLimits.max_fetches,
        ge=1,
        le=1024,
        description="pictures fetched at the same time, and fetched pictures that wait to be decoded",
    )
    max_fetches_per_host: int = Field(
        default=ImageLimits.max_fetches_per_host,
        ge=1,
        le=1024,
        description="pictures fetched at the same time from one host and port",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=ImageLimits.allowed_hosts,
        description="hosts that pictures may be fetched from, beside public addresses on ports 80 and 443: "
        "names, `*.name`, addresses and networks (CIDR), each also with :port",
    )
    allowed_local_dirs: Annotated[tuple[str, ...], NoDecode] = Field(
        default=ImageLimits.allowed_local_dirs,
        description="directories below which clients may name local pictures; none: no local pictures",
    )
    user_agent: str = Field(
        default=ImageLimits.user_agent,
        pattern=r"^[!-~]([ -~]*[!-~])?$",
        description="what servers are told when a picture is fetched",
    )
    exif_orientation: bool = Field(
        default=ImageLimits.exif_orientation,
        description="turn pictures upright as their EXIF data says; transformers does not",
    )
    fast_jpeg_decode: bool = Field(
        default=ImageLimits.fast_jpeg_decode,
        description="decode large JPEGs at reduced size: faster, and not exactly transformers' pixels",
    )
    decode_threads: int = Field(
        default=0,
        ge=0,
        le=_MOST_THREADS,
        description="pictures decoded at the same time; 0 is one per core of this replica's share",
    )
    torch_threads: int = Field(
        default=0,
        ge=0,
        le=_MOST_THREADS,
        description="threads of PyTorch on a CPU; 0 is OMP_NUM_THREADS where that is set, else one per core of "
        "this replica's share",
    )

    @field_validator("prompt_template")
    @classmethod
    def _has_one_gap(cls, template: str | None) -> str | None:
        if template is not None and template.count("{}") != 1:
            raise ValueError("must contain {} exactly once: the question goes there")
        return template

    @field_validator("allowed_hosts", "allowed_local_dirs", "auth_tokens", mode="before")
    @classmethod
    def _is_a_list(cls, value: Any) -> Any:
        """A list may come as text, from the environment above all: JSON, or separated by commas."""
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("[") and value.rstrip().endswith('"]'):
            return json.loads(value)
        return [entry.strip() for entry in value.split(",") if entry.strip()]

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_a_collector(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and not is_origin(endpoint):
            raise ValueError("must be like http://host:4317, or https, without a user, a path or a query")
        return endpoint

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        AddressPolicy(entries)
        return entries

    @field_validator("allowed_local_dirs")
    @classmethod
    def _are_directories(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        LocalFiles(entries)
        return entries

    def image_limits(self) -> ImageLimits:
        """Returns the settings that concern pictures alone."""
        return ImageLimits(**{field.name: getattr(self, field.name) for field in dataclasses.fields(ImageLimits)})

    @model_validator(mode="after")
    def _tls_is_whole(self) -> "Settings":
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key are set together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> "Settings":
        if self.health_port is not None and self.health_port == self.metrics_port:
            raise ValueError("health_port and metrics_port are the same port")
        return self

    @model_validator(mode="after")
    def _options_agree(self) -> "Settings":
        try:
            self.generation()
        except DocumentError as error:
            raise ValueError(str(error).partition(": ")[2]) from None
        return self

    def generation(self) -> Generation:
        """Returns how a document is answered that chooses nothing."""
        changes = {name: value for name in OPTION_NAMES if (value := getattr(self, name)) is not None}
        chosen = PRESETS[self.preset].merged(changes)
        return chosen if self.prompt_template is None else chosen._replace(prompt_template=self.prompt_template)

    @classmethod
    def resolve(cls, configured: dict[str, Any]) -> "Settings":
        """Resolves the settings in force: `configured` (from `with:` and `uses_with=`) with the environment on top.

        Raises:
            StartupError: an unknown or invalid setting; the message names it and the nearest known one.
        """
        for name in _NEVER_EMPTY:
            if os.environ.get(f"{ENV_PREFIX}{name.upper()}", "set").strip(" ,") == "":
                raise StartupError(f"{ENV_PREFIX}{name.upper()} is set and empty; set it to something, or unset it")
        unknown = [name for name in configured if name not in cls.model_fields]
        if unknown:
            raise StartupError(
                "; ".join(describe_unknown(name, f"setting '{name}'", list(cls.model_fields)) for name in unknown)
            )
        try:
            return cls(**(configured | EnvSettingsSource(cls)()))
        except ValidationError as error:
            raise StartupError(
                "; ".join(describe_setting(finding, ENV_PREFIX, _SECRET) for finding in error.errors())
            ) from None

    @classmethod
    def unknown_environment(cls) -> list[str]:
        """Returns a warning for every `BLIP2_*` variable that no setting reads.

        Not an error: Kubernetes sets `BLIP2_PORT` and the like in every pod beside a service named `blip2`.
        """
        known = {f"{ENV_PREFIX}{name.upper()}" for name in cls.model_fields}
        return [
            describe_unknown(
                name.removeprefix(ENV_PREFIX).lower(), f"environment variable {name}", list(cls.model_fields)
            )
            for name in sorted(os.environ)
            if name.startswith(ENV_PREFIX) and name not in known
        ]
