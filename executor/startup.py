"""From settings to a service that is ready: the composition root, which knows all rooms below the doors.

A door resolves the settings, and gets the service from here. Knows nothing of requests, and nothing of who asks.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from executor import cores
from executor.checkpoints import loading
from executor.model.blip2 import Blip2Model, use_threads
from executor.model.engine import Engine
from executor.model.warmup import warm_up
from executor.scheduling.dynamic_batching import BatchingOptions
from executor.service import AnswerEngine, Service
from executor.settings import Settings
from executor.telemetry import tracing
from executor.telemetry.metrics import Metrics
from executor.telemetry.observer import SILENT, Observer, Observers


@dataclass(frozen=True)
class Telemetry:
    """Holds who is told of all work.

    Attributes:
        metrics: None where none are asked for.
        observer: tells metrics and traces.
    """

    metrics: Metrics | None
    observer: Observer

    @classmethod
    def of(cls, settings: Settings) -> "Telemetry":
        """Makes what the settings ask for."""
        metrics = Metrics() if settings.metrics_port is not None else None
        traces = tracing.to_collector(settings.otlp_endpoint) if settings.otlp_endpoint else None
        listeners = [listener for listener in (metrics, traces) if listener is not None]
        return cls(metrics, Observers(listeners) if listeners else SILENT)


def open_service(
    settings: Settings,
    batching: BatchingOptions,
    telemetry: Telemetry,
    log: logging.Logger,
    replicas: int,
    calls: Callable[[], int],
    draining: Callable[[], bool],
    new_engine: Callable[[BatchingOptions, Observer], AnswerEngine],
    new_service: Callable[..., Service] = Service,
) -> Service:
    """Loads what answers, and puts the service together.

    Args:
        log: told of what an operator must know.
        replicas: on this host, this one included.
        calls: counts the calls in progress, of all doors.
        draining: tells whether the service ends.
        new_engine: loads the engine.
        new_service: makes the service of its parts.

    Raises:
        StartupError: the device or the checkpoint is not as it must be.
    """
    decode_threads = share_cores(settings, replicas, log)
    loading_since = time.monotonic()
    engine = new_engine(batching, telemetry.observer)
    load_s = time.monotonic() - loading_since
    parts: dict[str, Any] = {"settings": settings, "batching": batching, "engine": engine, "log": log}
    service = new_service(**parts, observer=telemetry.observer, decode_threads=decode_threads)
    if telemetry.metrics is not None:
        service.report_to(telemetry.metrics, load_s, calls, draining)
    log.info(f"batches of at most {batching.preferred_batch_size}, waiting at most {batching.timeout:g} ms")
    return service


def load_engine(
    settings: Settings, batching: BatchingOptions, log: logging.Logger, observer: Observer = SILENT
) -> Engine:
    """Loads the checkpoint onto its device, and makes an engine that answers batches of all sizes.

    Raises:
        StartupError: the device or the checkpoint is not as it must be.
    """
    model, compiled = load_model(settings, batching, log)
    return Engine(model, settings.feature_cache_mb * 1_000_000, observer.batch_answered, compiled)


def load_model(settings: Settings, batching: BatchingOptions, log: logging.Logger) -> tuple[Blip2Model, str]:
    """Loads the checkpoint onto its device and warms it up. Returns it, and the `compile` that it came to.

    Raises:
        StartupError: the device or the checkpoint is not as it must be.
    """
    quantized = "" if settings.quantization == "none" else f", linear layers {settings.quantization}"
    where = settings.device if settings.device_map == "none" else f"all GPUs ({settings.device_map})"
    log.info(f"loading {settings.model} on {where} as {settings.dtype}{quantized}")
    checkpoint = loading.load(
        settings.model, settings.revision, settings.device, settings.dtype, settings.quantization, settings.device_map
    )
    log.info(
        f"loaded {checkpoint.model.num_parameters():,} parameters on {checkpoint.device} "
        f"as {str(checkpoint.dtype).removeprefix('torch.')}"
    )
    model = Blip2Model(checkpoint, settings.max_prompt_tokens)
    options = settings.generation().options
    return model, warm_up(model, settings.compile, batching.preferred_batch_size, options, log.info)


def share_cores(settings: Settings, replicas: int, log: logging.Logger) -> int:
    """Has PyTorch use this process' share of the host's cores. Returns how many threads are to decode pictures.

    Args:
        replicas: on this host, this one included.
    """
    share = cores.share(replicas)
    threads = use_threads(settings.torch_threads, share)
    log.info(
        f"one of {replicas} on this host: cores={share} torch_threads={threads} "
        f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', '(all)')}"
    )
    return settings.decode_threads or share
