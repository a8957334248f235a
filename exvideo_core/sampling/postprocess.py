"""What is done to sampled latents before they are decoded."""

from __future__ import annotations

from torch import Tensor


def normalize_frames(latents_TCHW: Tensor) -> Tensor:
    """Give every frame the mean and spread of the whole clip, so that late frames do not fade.

    As DiffSynth-Studio 1.1.9 (svd_video.py, post_process_latents), with standard deviations of the sample (n - 1).
    """
    axes = (1, 2, 3)
    mean, std = latents_TCHW.mean(axes, keepdim=True), latents_TCHW.std(axes, keepdim=True)
    return (latents_TCHW - mean) / std * latents_TCHW.std() + latents_TCHW.mean()
