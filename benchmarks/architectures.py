"""BLIP-2s with random weights: right in shape and cost, meaningless in their answers.

Where size matters and no checkpoint is at hand. Sizes of `xl` are those of Salesforce/blip2-flan-t5-xl's config.json.
"""

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from demo.evaluate import CHECKPOINT
from executor.checkpoints.loading import DTYPES, Checkpoint

_XL: dict[str, Any] = {
    "vision_config": {},  # transformers' defaults are ViT-g's of the published checkpoint
    "qformer_config": {},  # and BERT-base's
    "text_config": {
        "model_type": "t5",
        "decoder_start_token_id": 0,
        "d_model": 2048,
        "d_kv": 64,
        "d_ff": 5120,
        "num_layers": 24,
        "num_decoder_layers": 24,
        "num_heads": 32,
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu",
        "vocab_size": 32128,
    },
    "num_query_tokens": 32,
}
_BASE: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "image_size": 224,
        "patch_size": 16,
    },
    "qformer_config": {
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "encoder_hidden_size": 384,
    },
    "text_config": {
        "model_type": "t5",
        "decoder_start_token_id": 0,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 1024,
        "num_layers": 8,
        "num_decoder_layers": 8,
        "num_heads": 6,
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu",
        "vocab_size": 32128,
    },
    "num_query_tokens": 32,
}
_MEDIUM: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 16,
    },
    "qformer_config": {"num_hidden_layers": 6, "encoder_hidden_size": 768},
    "text_config": {
        "model_type": "t5",
        "decoder_start_token_id": 0,
        "d_model": 768,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 6,
        "num_decoder_layers": 6,
        "num_heads": 12,
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu",
        "vocab_size": 32128,
    },
    "num_query_tokens": 32,
}
ARCHITECTURES = {"xl": _XL, "base": _BASE, "medium": _MEDIUM}


def config_of(architecture: str) -> Blip2Config:
    """The configuration of an architecture, with the demo checkpoint's `<image>`."""
    config = Blip2Config(**ARCHITECTURES[architecture])
    config.image_token_index = Blip2Config.from_pretrained(CHECKPOINT).image_token_index
    return config


def outline(architecture: str) -> Any:
    """A `Blip2ForConditionalGeneration` without memory, on PyTorch's `meta` device."""
    with torch.device("meta"):
        model = Blip2ForConditionalGeneration(config_of(architecture))
        # transformers ties T5's output layer until it loads one of its own, as the published weights have it.
        output_layer = model.language_model.lm_head
        output_layer.weight = torch.nn.Parameter(torch.empty_like(output_layer.weight))
    return model


def build(architecture: str, device: torch.device, dtype: str) -> Checkpoint:
    """A checkpoint as `executor.checkpoints.loading.load` gives it, with random weights made on `device`.

    Args:
        architecture: a key of `ARCHITECTURES`.
        device: where.
        dtype: `float16`, `bfloat16` or `float32`; in float16 the protected modules are float32, as after loading.
    """
    model = _typed(outline(architecture), dtype)
    model.to_empty(device=device)
    text = model.language_model
    text.encoder.embed_tokens.weight = text.decoder.embed_tokens.weight = text.shared.weight
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        _randomise(name, parameter.data, generator)
    config: Any = model.config
    model = model.eval().requires_grad_(False)
    return Checkpoint(model, _processor(config), config.image_token_index, device, DTYPES[dtype])


def write(architecture: str, dtype: str, folder: Path) -> Path:
    """Writes such a checkpoint, one file of at most 2 GB after the other, so that memory holds one of them."""
    model = _typed(outline(architecture), dtype)
    generator = torch.Generator().manual_seed(0)
    parameters = dict(model.named_parameters())
    plan = split_torch_state_dict_into_shards(parameters, max_shard_size=2_000_000_000)
    model.config.dtype = DTYPES[dtype]
    for part in (model.config, model.generation_config, _processor(model.config)):
        part.save_pretrained(folder)
    for file, names in plan.filename_to_tensors.items():
        weights = {name: torch.empty_like(parameters[name], device="cpu") for name in names}
        for name, weight in weights.items():
            _randomise(name, weight, generator)
        save_file(weights, folder / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        Path(folder, "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def _typed(model: Any, dtype: str) -> Any:
    """In float16 with what transformers protects in float32."""
    torch_dtype = DTYPES[dtype]
    protected = torch.float32 if torch_dtype is torch.float16 else torch_dtype
    model.to(torch_dtype)
    model.qformer.to(protected)
    model.query_tokens.data = model.query_tokens.data.to(protected)
    for block in (*model.language_model.encoder.block, *model.language_model.decoder.block):
        block.layer[-1].DenseReluDense.wo.to(protected)
    generation = model.language_model.generation_config
    generation.decoder_start_token_id, generation.pad_token_id, generation.eos_token_id = 0, 0, 1
    return model


@torch.no_grad()
def _randomise(name: str, weight: torch.Tensor, generator: torch.Generator) -> None:
    if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "LayerNorm.weight")):
        weight.fill_(1.0)
    else:
        weight.normal_(std=0.02, generator=generator)


def _processor(config: Any) -> Blip2Processor:
    size = config.vision_config.image_size
    image_processor = BlipImageProcessorPil(size={"height": size, "width": size})
    tokenizer = Blip2Processor.from_pretrained(CHECKPOINT, backend="pil").tokenizer
    return Blip2Processor(image_processor, tokenizer, num_query_tokens=config.num_query_tokens)
