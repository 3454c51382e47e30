"""Weights of fewer bits, for smaller GPUs: the linear layers by bitsandbytes, as transformers loads them.

Which layers keep their precision is transformers' rule: the Q-Former and the query tokens, T5's `wo`, the output layer,
and what is no linear layer (embeddings, norms, the patches' convolution). Knows bitsandbytes. It must not know how a
checkpoint is read.
"""

import importlib.util
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from executor.errors import StartupError


def quantization_config(quantization: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """Makes what transformers' `from_pretrained` takes as `quantization_config`.

    Args:
        quantization: `none`; `int8`, LLM.int8() with outliers in float16; `int4`, NF4.
        dtype: that 4-bit layers compute in.

    Returns:
        The configuration; None for `none`.

    Raises:
        StartupError: bitsandbytes is not installed.
    """
    if quantization == "none":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise StartupError(
            f"setting 'quantization' is '{quantization}', which needs bitsandbytes; "
            "install it with: pip install 'blip2-executor[quantized]' (or pip install bitsandbytes)"
        )
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def spare_unfit_layers(model: nn.Module) -> None:
    """Keeps 4-bit layers of unusual sizes from a faster way that bitsandbytes has for CPUs with AVX512-BF16.

    It takes weights in blocks of 32 rows and 64 columns, and fails on others. The checkpoints of Salesforce have none.
    """
    for module in model.modules():
        layer: Any = module
        if hasattr(layer, "support_avx512bf16_for_cpu") and (layer.in_features % 64 or layer.out_features % 32):
            layer.support_avx512bf16_for_cpu = False
