"""Loss of post-tuning CogVideoX, and the timesteps it is taken at.

Shapes: B clips, T latent frames, C latent channels, H and W latent cells, L tokens, D channels of the text.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...sampling import denoisers
from ...sampling.schedules import NUM_TIMESTEPS, zero_snr_alphas

Transformer = Callable[[Tensor, Tensor, Tensor], Tensor]  # CogVideoXTransformer's call: x, timestep, context


def cogvideox_loss(
    transformer: Transformer, latents_BCTHW: Tensor, context: Tensor, timestep: Tensor, noise: Tensor
) -> Tensor:
    """Mean squared error of v, which equals diffusers' error of x0 times 1 / (1 - alpha).

    Args:
        latents_BCTHW: clean, of unit variance.
        context: the text's embedding, [B, L, D].
        timestep: 0 to 999, a scalar, [1] or [B].
        noise: unit, shaped like the latents.
    """
    return velocity_errors(transformer, latents_BCTHW, context, timestep, noise).mean()


def velocity_errors(
    transformer: Transformer, latents_BCTHW: Tensor, context: Tensor, timestep: Tensor, noise: Tensor
) -> Tensor:
    """Squared errors of v, float32, shaped like the latents; arguments as in `cogvideox_loss`."""
    alpha = zero_snr_alphas().to(latents_BCTHW.device)[timestep.long()].view(-1, 1, 1, 1, 1)
    v_BCTHW = transformer(denoisers.add_noise(latents_BCTHW, noise, alpha), timestep, context)
    target_BCTHW = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents_BCTHW
    return (v_BCTHW.float() - target_BCTHW.float()).square()


def noisy_timesteps(count: int, noisiness: float, generator: torch.Generator) -> Tensor:
    """Random timesteps, [count] int64: uniform at `noisiness` 1, more of the higher ones above."""
    shares = 1 - torch.rand(count, generator=generator, dtype=torch.float64) ** noisiness
    return (NUM_TIMESTEPS * shares).long().clamp(max=NUM_TIMESTEPS - 1)
