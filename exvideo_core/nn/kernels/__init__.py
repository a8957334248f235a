"""Triton kernels for GPUs, one file each. The plain PyTorch code that a kernel stands in for is its twin."""

from .checked import (
    Mode,
    are_tried,
    are_used,
    kernel_mode,
    kernels,
    with_faster_kernel,
    with_kernel,
    with_kernel_in_place,
)

__all__ = [
    "Mode",
    "are_tried",
    "are_used",
    "kernel_mode",
    "kernels",
    "with_faster_kernel",
    "with_kernel",
    "with_kernel_in_place",
]
