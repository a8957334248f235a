"""The finish of sampled latents before they are decoded."""

from __future__ import annotations

from torch import Tensor

from ..errors import NumberError
from ..nn.nan_check import describe_nonfinite, is_finite


def finish(latents: Tensor, *, normalize: bool = False, contrast: float = 1.0) -> Tensor:
    """Normalize the frames and raise the contrast.

    Args:
        latents: [T, C, H, W], or [B, C, T, H, W].
        normalize: give every frame the mean and spread of its clip.
        contrast: factor on the latents.

    Raises:
        NumberError: the result has NaN or Inf.
    """
    if normalize:
        latents = normalize_frames(latents)
    latents = latents * contrast
    if not is_finite(latents):
        raise NumberError(
            f"after the last step the latents hold {describe_nonfinite(latents)}. The guidance scale or the contrast "
            f"is too large, or all cells of a frame are alike and cannot be normalised (turn that off). With a model "
            f"that was not loaded by ExVideo, float16 may have overflowed: load it in bf16 or fp32."
        )
    return latents


def normalize_frames(latents: Tensor) -> Tensor:
    """Give every frame the mean and spread of its clip, so that late frames do not fade.

    As in DiffSynth-Studio 1.1.9 (svd_video.py, post_process_latents), with sample standard deviations (n - 1).

    Args:
        latents: [T, C, H, W], or [B, C, T, H, W].
    """
    frame, clip = ((1, 2, 3), (0, 1, 2, 3)) if latents.ndim == 4 else ((1, 3, 4), (1, 2, 3, 4))
    mean, std = latents.mean(frame, keepdim=True), latents.std(frame, keepdim=True)
    return (latents - mean) / std * latents.std(clip, keepdim=True) + latents.mean(clip, keepdim=True)
