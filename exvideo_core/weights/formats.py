"""Number formats of weights, by the names people know them by."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

FORMATS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def converted(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights on the CPU, in a format."""
    return {name: weight.detach().to("cpu", dtype) for name, weight in weights.items()}
