"""Loading a BLIP-2 checkpoint so that it cannot lie.

transformers loads a checkpoint with missing weights as random ones and a processor without `<image>` as one that
ignores the picture. Here each of these ends the start with an error that says what is wrong. Knows transformers, files
and devices. It must not know what the model is used for.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from transformers import AutoTokenizer, BitsAndBytesConfig, Blip2Config, Blip2ForConditionalGeneration, Blip2Processor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from executor.checkpoints import checksums
from executor.checkpoints.quantization import quantization_config, spare_unfit_layers
from executor.errors import StartupError

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
"""Names of dtypes, as settings and commands write them -> PyTorch's."""

_IMAGE_TOKEN = "<image>"


@dataclass(frozen=True)
class Checkpoint:
    """Holds a checkpoint on its device, in its dtype, in inference mode, with its processor.

    Attributes:
        model: the weights.
        processor: prepares pictures and texts for them.
        image_token_id: the token in whose place a picture's features go.
        device: where pictures and prompts go; of a model that is spread over several devices, where it begins.
        dtype: in which the weights were asked for; in float16 some modules stay float32.
        is_quantized: whether the linear layers are bitsandbytes'.
    """

    model: Blip2ForConditionalGeneration
    processor: Blip2Processor
    image_token_id: int
    device: torch.device
    dtype: torch.dtype
    is_quantized: bool = False


def resolve_device(device: str) -> torch.device:
    """Chooses the device that a setting means: `auto` is CUDA where there is any, and the CPU elsewhere.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        StartupError: a CUDA device that is not there, or a choice of devices that nobody has made.
    """
    if device != "cpu" and os.environ.get("CUDA_VISIBLE_DEVICES", "").startswith("RR"):
        # PyTorch would see no device, and the service silently run on the CPU.
        raise StartupError(
            "CUDA_VISIBLE_DEVICES=RR gives each replica of a Deployment a device of its own, but nvidia-smi told Jina "
            "of none; set CUDA_TOTAL_DEVICES in the environment of the program that opens the Deployment"
        )
    cuda_devices = torch.cuda.device_count()
    if device == "auto":
        return torch.device("cuda" if cuda_devices else "cpu")
    resolved = torch.device(device)
    if resolved.type == "cuda" and (resolved.index or 0) >= cuda_devices:
        raise StartupError(
            f"setting 'device' is '{device}', but this machine shows {cuda_devices} CUDA devices to PyTorch "
            f"{torch.__version__}; set device to 'auto' or 'cpu', or check the driver and CUDA_VISIBLE_DEVICES"
        )
    return resolved


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Chooses the dtype that a setting means: `auto` is float16 on CUDA and float32 on a CPU.

    Args:
        dtype: `auto` or a name in `DTYPES`.
        device: where the weights will be.
    """
    if dtype == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    return DTYPES[dtype]


def allow_fast_float32(device: torch.device, dtype: torch.dtype) -> None:
    """Allows TF32 for the modules that stay float32 in half precision on CUDA.

    Without it they cost a third of the time. A model that was asked for in float32 keeps all its bits. It is PyTorch's
    setting for the whole process.

    Args:
        device: where the model is.
        dtype: in which it was asked for.
    """
    if device.type == "cuda" and dtype is not torch.float32:
        torch.set_float32_matmul_precision("high")


def load(
    model: str,
    revision: str = "main",
    device: str = "auto",
    dtype: str = "auto",
    quantization: str = "none",
    device_map: str = "none",
) -> Checkpoint:
    """Loads a checkpoint, shard by shard onto its device, with a progress bar.

    In float16 the modules that transformers protects (Q-Former, query tokens, T5's `wo`) stay float32. A directory with
    `checksums.json`, as `prepare` writes it, is checked first.

    Args:
        model: hub id or local directory.
        revision: branch, tag or commit of a hub checkpoint.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: `auto`, `float16`, `bfloat16` or `float32`.
        quantization: `none`, `int8` or `int4`, see `executor.checkpoints.quantization`.
        device_map: `none`, or how accelerate spreads the model over all CUDA devices: `auto` and `balanced` fill them
            evenly, `sequential` one after the other.

    Raises:
        StartupError: the device or bitsandbytes is not there, the devices are too small for the model, or
            the checkpoint is not there, damaged, incomplete or not BLIP-2.
    """
    on = resolve_device(device)
    if device_map != "none" and on.type != "cuda":
        raise StartupError(
            f"setting 'device_map' is '{device_map}', which is for CUDA devices, but the device is {on}; "
            "set device_map to 'none'"
        )
    torch_dtype = resolve_dtype(dtype, on)
    _check_readable(model)
    quantized = quantization_config(quantization, torch_dtype)
    checksums.verify(Path(model))
    config = _load_config(model, revision)
    processor = _load_processor(model, revision)
    image_token_id = _agree_on_image_tokens(model, config, processor)
    placement = {"": on} if device_map == "none" else device_map
    loaded = _load_weights(model, revision, config, placement, torch_dtype, quantized)
    if device_map != "none":
        on = _device_of_pictures(model, loaded)
    spare_unfit_layers(loaded)
    allow_fast_float32(on, torch_dtype)
    return Checkpoint(loaded.eval().requires_grad_(False), processor, image_token_id, on, torch_dtype, bool(quantized))


def _check_readable(model: str) -> None:
    """Of a file that this user may not read, safetensors says that it is not there."""
    if not os.path.isdir(model):  # `Path.is_dir` raises where the directory above is closed
        return
    if not os.access(model, os.R_OK | os.X_OK):
        raise StartupError(f"checkpoint '{model}' cannot be read: Permission denied for the directory")
    for file in sorted(Path(model).iterdir()):
        if file.suffix in checksums.READ_BY_TRANSFORMERS and file.is_file() and not os.access(file, os.R_OK):
            raise StartupError(f"checkpoint '{model}' cannot be read: Permission denied for {file.name}")


def _load_config(model: str, revision: str) -> Blip2Config:
    if Path(model).is_dir() and not Path(model, "config.json").is_file():
        raise StartupError(f"model '{model}' is a directory without config.json: not a checkpoint")
    with _Reading(model, revision):
        values, _ = Blip2Config.get_config_dict(model, revision=revision)
        if values.get("model_type") != "blip-2" or "qformer_config" not in values:
            raise StartupError(
                f"model '{model}' is not a BLIP-2 checkpoint (its config.json says model_type "
                f"{values.get('model_type')!r}); use one such as Salesforce/blip2-flan-t5-xl"
            )
        return Blip2Config.from_pretrained(model, revision=revision)


def _load_processor(model: str, revision: str) -> Blip2Processor:
    with _Reading(model, revision):
        # By name, not through AutoProcessor: with torchvision installed transformers would silently resize otherwise.
        image_processor = BlipImageProcessorPil.from_pretrained(model, revision=revision)
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
        values, _ = Blip2Processor.get_processor_dict(model, revision=revision)
        return Blip2Processor(image_processor, tokenizer, num_query_tokens=values.get("num_query_tokens"))


def _agree_on_image_tokens(model: str, config: Blip2Config, processor: Blip2Processor) -> int:
    """The id of `<image>`, on which config and tokenizer must agree. Sets what 2023 checkpoints lack."""
    if processor.num_query_tokens is None:
        processor.num_query_tokens = config.num_query_tokens
    if processor.num_query_tokens != config.num_query_tokens:
        raise StartupError(
            f"checkpoint '{model}' contradicts itself: its processor has {processor.num_query_tokens} query tokens, "
            f"its model {config.num_query_tokens}"
        )
    token_id = int(processor.tokenizer.convert_tokens_to_ids(_IMAGE_TOKEN))
    if config.image_token_index is None:
        config.image_token_index = token_id
    if config.image_token_index != token_id:
        raise StartupError(
            f"checkpoint '{model}' contradicts itself: {_IMAGE_TOKEN} is token {token_id} for its tokenizer and "
            f"{config.image_token_index} for its model"
        )
    embeddings = config.get_text_config().vocab_size
    if token_id >= embeddings:
        raise StartupError(f"checkpoint '{model}' has {embeddings} embeddings, none for {_IMAGE_TOKEN} ({token_id})")
    return token_id


def _load_weights(
    model: str,
    revision: str,
    config: Blip2Config,
    placement: dict[str, torch.device] | str,
    dtype: torch.dtype,
    quantized: BitsAndBytesConfig | None,
) -> Blip2ForConditionalGeneration:
    with _Reading(model, revision):
        loaded: Blip2ForConditionalGeneration
        info: dict[str, Any]
        loaded, info = cast(
            Any,
            Blip2ForConditionalGeneration.from_pretrained(
                model,
                revision=revision,
                config=config,
                dtype=dtype,
                quantization_config=quantized,
                # Straight to the device, one shard at a time: never twice the weights in memory.
                device_map=placement,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported as missing weights are, and as fatal
            ),
        )
    wrong = {kind: sorted(info[kind]) for kind in ("missing_keys", "mismatched_keys") if info.get(kind)}
    if wrong:
        details = "; ".join(f"{kind.replace('_', ' ')}: {len(keys)}, first {keys[0]}" for kind, keys in wrong.items())
        raise StartupError(f"checkpoint '{model}' does not fit BLIP-2's architecture ({details}); download it again")
    return loaded


def _device_of_pictures(name: str, model: Any) -> torch.device:
    """Where a model that is spread begins. It must not be kept in the host's memory, which is read for every token."""
    places = {str(place) for place in getattr(model, "hf_device_map", {}).values()}
    if places & {"cpu", "disk"}:
        raise StartupError(
            f"model '{name}' does not fit into the free memory of the {torch.cuda.device_count()} CUDA devices that "
            "PyTorch sees; add devices, or set quantization to 'int8' or 'int4'"
        )
    device: torch.device = model.vision_model.embeddings.patch_embedding.weight.device
    return device


class _Reading:
    """Turns what can go wrong while a checkpoint is read into a `StartupError` that says what to do."""

    def __init__(self, model: str, revision: str) -> None:
        self._model = model
        self._revision = revision

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None or isinstance(error, StartupError):
            return
        if isinstance(error, SafetensorError | json.JSONDecodeError | EOFError | LookupError | TypeError):
            raise StartupError(
                f"checkpoint '{self._model}' is damaged ({error}); a file is truncated or not what its name says: "
                "download it again"
            ) from error
        if isinstance(error, OSError | HfHubHTTPError | ValueError):
            raise StartupError(self._not_there(error)) from error

    def _not_there(self, error: BaseException) -> str:
        if Path(self._model).is_dir():
            return f"checkpoint '{self._model}' cannot be read: {error}"
        if self._model.startswith((".", "/", "~")) or self._model.count("/") != 1:
            return f"model '{self._model}': there is no such directory below {os.getcwd()}, and no hub id has this form"
        return (
            f"model '{self._model}', revision '{self._revision}' is neither a directory below {os.getcwd()} nor can it "
            f"be had from the hub ({type(error).__name__}); check the name and the network, or set model to a directory"
        )
