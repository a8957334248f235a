"""Dtypes of weights, by their names on the command line, in configurations, in ComfyUI and in safetensors files."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

FORMATS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}  # that networks compute in
STORED = FORMATS | {"fp8_e4m3fn": torch.float8_e4m3fn}  # that weights can also be kept in
SAFETENSORS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def label(dtype: torch.dtype) -> str:
    """The short name of a dtype: fp16, bf16, fp32, fp8 for both kinds, else PyTorch's."""
    name = str(dtype).removeprefix("torch.")
    short = next((short for short, known in FORMATS.items() if known == dtype), name)
    return "fp8" if name.startswith("float8") else short


def converted(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights on the CPU in a dtype."""
    return {name: weight.detach().to("cpu", dtype) for name, weight in weights.items()}
