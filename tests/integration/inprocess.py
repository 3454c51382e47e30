"""The server of `python -m executor` in this process, on a device that the test holds and lets go."""

from __future__ import annotations

import asyncio
import json
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from docarray import DocList
from jina.parsers import set_gateway_parser, set_pod_parser
from jina.serve.runtimes.gateway.request_handling import GatewayRequestHandler
from jina.serve.runtimes.servers.grpc import GRPCServer
from jina.serve.runtimes.worker.request_handling import WorkerRequestHandler
from jina.types.request.data import DataRequest

from demo.service import free_port
from executor import Blip2Executor, ImagePrompt
from executor.model.engine import CollatedBatch, Question
from executor.questions.options import GenerationOptions
from executor.scheduling.batcher import Batcher
from executor.scheduling.dynamic_batching import BatchingOptions
from executor.service import Answer, AnswerEngine, Query, Service
from executor.telemetry.observer import Observer

TIMEOUT_S = 60


class GatedEngine:
    """An engine behind a gate: a batch runs only when the test lets it.

    Attributes:
        batches: the seeds of each batch that reached the device.
        options: its generation options.
        fault: raised for every batch on its way to the device, where there is one.
    """

    def __init__(self, engine: AnswerEngine) -> None:
        self._engine = engine
        self.batches: list[list[int | None]] = []
        self.options: list[GenerationOptions] = []
        self.entered = threading.Semaphore(0)
        self.proceed = threading.Semaphore(0)
        self.fault: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def collate(self, questions: Sequence[Question]) -> CollatedBatch:
        if self.fault is not None:
            raise self.fault
        batch: CollatedBatch = self._engine.collate(questions)
        return batch

    def run(self, batch: CollatedBatch) -> Sequence[str]:
        self.batches.append(batch.seeds)
        self.options.append(batch.options)
        self.entered.release()
        assert self.proceed.acquire(timeout=TIMEOUT_S)
        return self.answer(batch)

    def answer(self, batch: CollatedBatch) -> Sequence[str]:
        return self._engine.run(batch)

    def let(self, batches: int) -> None:
        self.proceed.release(batches)


class HeldEngine(GatedEngine):
    """Answers a document with its seed."""

    def answer(self, batch: CollatedBatch) -> Sequence[str]:
        return [str(seed) for seed in batch.seeds]


class WatchedBatcher(Batcher[Question, Any, str]):
    """Lets a test wait for what is submitted."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.submitted: list[int | None] = []
        self.left: list[int | None] = []
        self.moved = threading.Condition()

    def submit(self, item: Question, key: Any = None) -> Any:
        future = super().submit(item, key)
        with self.moved:
            self.submitted.append(item.options.seed)
            self.moved.notify_all()

        def note(_: object) -> None:
            if future.cancelled():
                with self.moved:
                    self.left.append(item.options.seed)
                    self.moved.notify_all()

        future.add_done_callback(note)
        return future

    def wait_for_submitted(self, seeds: Sequence[int]) -> None:
        with self.moved:
            assert self.moved.wait_for(lambda: set(seeds) <= set(self.submitted), TIMEOUT_S)

    def wait_for_left(self, seeds: Sequence[int]) -> None:
        with self.moved:
            assert self.moved.wait_for(lambda: set(seeds) <= set(self.left), TIMEOUT_S)


class CountingService(Service):
    """Lets a test see the requests that reach the service, and break one.

    Attributes:
        sizes: documents of each request.
        fault: called with each request's queries; what it raises is the request's.
    """

    def __init__(self, **parts: Any) -> None:
        self.batcher: WatchedBatcher
        super().__init__(batcher=self._watch, **parts)
        self.sizes: list[int] = []
        self.fault: Callable[[Sequence[Query]], None] = lambda queries: None

    def _watch(self, *args: Any, **options: Any) -> WatchedBatcher:
        self.batcher = WatchedBatcher(*args, **options)
        return self.batcher

    async def answer(self, queries: Sequence[Query], *args: Any) -> list[Answer]:
        self.sizes.append(len(queries))
        self.fault(queries)
        return await super().answer(queries, *args)


class GatedExecutor(Blip2Executor):
    """The Executor with its own engine behind a gate."""

    gate: type[GatedEngine] = GatedEngine

    def new_engine(self, batching: BatchingOptions, observer: Observer) -> Any:
        self.gated = self.gate(super().new_engine(batching, observer))
        return self.gated

    def new_service(self, **parts: Any) -> Service:
        self.service = CountingService(**parts)
        return self.service


class HeldExecutor(GatedExecutor):
    """The Executor on a device that answers a document with its seed."""

    gate = HeldEngine


@dataclass(frozen=True)
class Running:
    """A server in this process, and the event loop that it runs in."""

    server: GRPCServer
    loop: asyncio.AbstractEventLoop
    port: int

    @property
    def executor(self) -> Blip2Executor:
        executor = self.server._request_handler._executor
        assert isinstance(executor, Blip2Executor)
        return executor


class HeldService:
    """A running server, its port and its parts."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self.port = running.port
        self.executor = running.executor
        assert isinstance(self.executor, GatedExecutor)
        self.engine = self.executor.gated
        self.service = self.executor.service
        self.batcher = self.service.batcher

    def shut_down(self) -> Future[None]:
        """Begins the end that a signal would begin."""
        return asyncio.run_coroutine_threadsafe(self._running.server.shutdown(), self._running.loop)


@contextmanager
def hold_service(uses: str = "HeldExecutor", **arguments: Any) -> Iterator[HeldService]:
    """Serves `uses`, the name of a `GatedExecutor` or a file that names one, with a held device.

    Args:
        arguments: those of the command `jina executor`, such as `uses_with`.
    """
    args = set_pod_parser().parse_args(["--name", "blip2"])
    args.uses = uses
    for name, value in arguments.items():
        setattr(args, name, value)
    with _serve(args, WorkerRequestHandler) as running:
        service = HeldService(running)
        try:
            yield service
        finally:
            service.engine.let(10_000)


@contextmanager
def serve_executor(uses: str = "Blip2Executor") -> Iterator[tuple[int, Blip2Executor]]:
    """Serves an Executor, by the name of its class. Yields the port and the Executor."""
    args = set_pod_parser().parse_args(["--name", "blip2"])
    args.uses = uses
    with _serve(args, WorkerRequestHandler) as running:
        yield running.port, running.executor


@contextmanager
def gateway_to(*ports: int) -> Iterator[int]:
    """A gateway in front of replicas of a service, in this process too. Yields the gateway's port."""
    addresses = json.dumps({"blip2": [f"127.0.0.1:{port}" for port in ports]})
    # fmt: off
    args = set_gateway_parser().parse_args([
        "--name", "gateway",
        "--graph-description", '{"start-gateway": ["blip2"], "blip2": ["end-gateway"]}',
        "--deployments-addresses", addresses,
    ])
    # fmt: on
    args.runtime_name = args.name
    with _serve(args, GatewayRequestHandler):
        yield args.port


@contextmanager
def _serve(args: Namespace, handler: type) -> Iterator[Running]:
    """As Jina's own runtime, less the signals that only a main thread can handle."""
    args.host, args.port = "127.0.0.1", free_port()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> GRPCServer:
        server = GRPCServer(name=args.name, runtime_args=args, req_handler_cls=handler)
        await server.setup_server()
        return server

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(TIMEOUT_S)
    try:
        yield Running(server, loop, args.port)
    finally:
        asyncio.run_coroutine_threadsafe(server.shutdown(), loop).result(TIMEOUT_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(TIMEOUT_S)
        loop.close()


def numbered(picture: bytes, *seeds: int) -> DocList[ImagePrompt]:
    """Documents that a `HeldEngine` knows by their seeds."""
    return DocList[ImagePrompt](
        ImagePrompt(id=str(seed), img_bytes=picture, prompt="how many cats?", do_sample=True, seed=seed)
        for seed in seeds
    )


def as_request(documents: DocList[ImagePrompt]) -> DataRequest:
    """What jina's client would send, for those who want to hold the call in their hands."""
    request = DataRequest()
    request.document_array_cls = DocList[ImagePrompt]
    request.data.docs = documents
    request.header.exec_endpoint = "/vqa"
    request.header.request_id = "test"
    return request
