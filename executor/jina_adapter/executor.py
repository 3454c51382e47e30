"""`Blip2Executor`: the service as Jina knows it. Documents go in and come out; everything else is the service's.

Knows Jina; what is answered and how, `executor.service` knows.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

from google.protobuf.message import DecodeError
from jina import Executor

from executor.errors import DocumentError, ErrorCode
from executor.jina_adapter import endpoints, mends
from executor.jina_adapter.signature import keywords_from_settings
from executor.scheduling.dynamic_batching import BatchingOptions
from executor.server.policy import ServerPolicy
from executor.service import AnswerEngine, Service
from executor.settings import Settings
from executor.startup import Telemetry, load_engine, open_service
from executor.telemetry import logs
from executor.telemetry.observer import Observer


@endpoints.with_endpoints
class Blip2Executor(Executor):
    """Answers questions about pictures with BLIP-2. Keeps `executor.jina_adapter.contract.ServedExecutor`.

    Its endpoints are the tasks of `executor.questions.tasks`.

    Args:
        settings: the fields of `executor.settings.Settings`; the environment (`BLIP2_<NAME>`) wins over them.

    Raises:
        StartupError: a setting, the device or the checkpoint is not as it must be.
    """

    keeps_contract: Literal[True] = True

    @keywords_from_settings
    def __init__(
        self,
        metas: dict[str, Any] | None = None,
        requests: dict[str, Any] | None = None,
        runtime_args: dict[str, Any] | None = None,
        workspace: str | None = None,
        dynamic_batching: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(
            metas=metas,
            requests=requests,
            runtime_args=runtime_args,
            workspace=workspace,
            dynamic_batching=dynamic_batching,
        )
        mends.require()
        batching = BatchingOptions.resolve(getattr(self, "dynamic_batching", {}), endpoints.NAMES)
        self.dynamic_batching: dict[str, Any] = {}  # taken over: nothing is left for Jina's queue
        self.settings = Settings.resolve(settings)
        logs.set_up(self.settings.log_format)
        for warning in Settings.unknown_environment():
            self.logger.warning(warning)
        # Of a Deployment they run on one host.
        replicas = max(1, getattr(self.runtime_args, "replicas", 1) * getattr(self.runtime_args, "shards", 1))
        log, telemetry = self.logger.logger, Telemetry.of(self.settings)
        # Before the model, which takes minutes: what is wrong with tokens or certificates is said at once.
        self.server_policy = ServerPolicy(
            self.settings, log, self.overload, telemetry.observer, telemetry.metrics, replicas
        )
        calls = self.server_policy.calls
        self._service = open_service(
            self.settings,
            batching,
            telemetry,
            log,
            replicas,
            lambda: calls.in_progress,
            lambda: calls.is_draining,
            self.new_engine,
            self.new_service,
        )
        self.stream_documents = 4 * batching.preferred_batch_size

    def new_engine(self, batching: BatchingOptions, observer: Observer) -> AnswerEngine:
        """Loads what answers. A subclass may have another engine."""
        return load_engine(self.settings, batching, self.logger.logger, observer)

    def new_service(self, **parts: Any) -> Service:
        """Puts the service together of its parts. A subclass may add to them."""
        return Service(**parts)

    @property
    def on_device_lost(self) -> Callable[[], None] | None:
        """Returns what is called when the device has failed for good."""
        return self._service.on_device_lost

    @on_device_lost.setter
    def on_device_lost(self, call: Callable[[], None] | None) -> None:
        self._service.on_device_lost = call

    def overload(self) -> str | None:
        """Returns what every document of a request that comes now would be told; None where there is room for one."""
        return self._service.overload()

    def documents_refused(self, documents: int) -> None:
        """Notes that so many documents have been told the `overload`."""
        self._service.documents_refused(documents)

    def request_of_stream(self) -> AbstractContextManager[object]:
        """Surrounds one request of a stream, in a task of its own."""
        return self._service.request_of_stream()

    def describe_failure(self, error: BaseException | None) -> str:
        """Returns what a client reads of a request that failed as a whole. What it must not read goes to the log."""
        failure = self._failure(error)
        self._service.request_failed(failure)
        return str(failure)

    def close(self) -> None:
        """Finishes the batch that runs, and frees what the service holds."""
        self._service.close()

    def _failure(self, error: BaseException | None) -> DocumentError:
        if isinstance(error, ValueError) and "Fail to serialize" in str(error):  # protobuf's, of NaN and infinity
            return DocumentError(ErrorCode.INVALID_OPTIONS, "a number in 'parameters' is not finite.")
        if isinstance(error, DecodeError):
            return DocumentError(ErrorCode.INVALID_DOCUMENT, "the request's documents cannot be read.")
        return self._service.unexpected(error, "request")
