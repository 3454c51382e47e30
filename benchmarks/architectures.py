"""BLIP-2s with random weights: right in shape and cost, meaningless in their answers.

Where size matters and no checkpoint is at hand. Sizes of `xl` are those of Salesforce/blip2-flan-t5-xl's config.json.
"""

from typing import Any

import torch
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from demo.evaluate import CHECKPOINT
from executor.checkpoint import DTYPES, Checkpoint

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
    """A checkpoint as `executor.checkpoint.load` gives it, with random weights made on `device`.

    Args:
        architecture: a key of `ARCHITECTURES`.
        device: where.
        dtype: `float16`, `bfloat16` or `float32`; in float16 the protected modules are float32, as after loading.
    """
    torch_dtype = DTYPES[dtype]
    model = outline(architecture)
    protected = torch.float32 if torch_dtype is torch.float16 else torch_dtype
    model.to(torch_dtype)
    model.qformer.to(protected)
    model.query_tokens.data = model.query_tokens.data.to(protected)
    for block in (*model.language_model.encoder.block, *model.language_model.decoder.block):
        block.layer[-1].DenseReluDense.wo.to(protected)
    model.to_empty(device=device)
    text = model.language_model
    text.encoder.embed_tokens.weight = text.decoder.embed_tokens.weight = text.shared.weight
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "LayerNorm.weight")):
            parameter.data.fill_(1.0)
        else:
            parameter.data.normal_(std=0.02, generator=generator)
    generation = model.language_model.generation_config
    generation.decoder_start_token_id, generation.pad_token_id, generation.eos_token_id = 0, 0, 1
    config: Any = model.config
    processor = Blip2Processor.from_pretrained(CHECKPOINT, backend="pil")
    size = config.vision_config.image_size
    image_processor = BlipImageProcessorPil(size={"height": size, "width": size})
    processor = Blip2Processor(image_processor, processor.tokenizer, num_query_tokens=config.num_query_tokens)
    return Checkpoint(model.eval().requires_grad_(False), processor, config.image_token_index, device, torch_dtype)
