"""From settings to an engine that is ready to answer.

Knows the checkpoint and the model; knows nothing of requests, and nothing of who asks.
"""

import logging
import os

from executor import cores
from executor.checkpoints import loading
from executor.model.blip2 import Blip2Model, use_threads
from executor.model.engine import Engine
from executor.model.warmup import warm_up
from executor.scheduling.dynamic_batching import BatchingOptions
from executor.settings import Settings
from executor.telemetry.observer import SILENT, Observer


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
