"""Loss of post-tuning Stable Video Diffusion, and the noise levels it is taken at.

With a = sqrt(1 + sigma^2), the network sees (x0 + sigma n) / a and predicts v, from which
x0 = input / a - (sigma / a) v. The published script (DiffSynth-Studio 1.1.9, ExVideo_svd_train.py) compares that x0
with the latents made a little stronger, s x0, and weights by a / sigma. In v this is sigma / a times the squared error
to the target n / a - (sigma / a) x0 - (s - 1) (a / sigma) x0.

Shapes: T frames, C latent channels, H and W latent cells, D channels of the picture's embedding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...sampling.schedules import RHO, SIGMA_MAX, SIGMA_MIN

Network = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # SVDUNet's call: x, timestep, context, ids


def svd_loss(
    unet: Network,
    latents_TCHW: Tensor,
    image_latents_CHW: Tensor,
    context: Tensor,
    add_time_ids: Tensor,
    sigma: Tensor,
    noise: Tensor,
    target_scale: float = 1.01,
) -> tuple[Tensor, Tensor]:
    """Mean squared error of a clip's denoised latents, and that times sqrt(1 + sigma^2) / sigma, the script's weight.

    Args:
        latents_TCHW: clean, of unit variance.
        image_latents_CHW: of the conditioning picture, unscaled.
        context: the picture's embedding, [1, D].
        add_time_ids: [1, 3], as the network takes them.
        target_scale: 1 trains towards the latents as they are; the published script's is 1.01.
    """
    denoised_TCHW, total = svd_denoised(unet, latents_TCHW, image_latents_CHW, context, add_time_ids, sigma, noise)
    loss = (denoised_TCHW - target_scale * latents_TCHW.float()).square().mean()
    return loss, loss * total / sigma


def svd_denoised(
    unet: Network,
    latents_TCHW: Tensor,
    image_latents_CHW: Tensor,
    context: Tensor,
    add_time_ids: Tensor,
    sigma: Tensor,
    noise: Tensor,
) -> tuple[Tensor, Tensor]:
    """Denoised latents of a clip at a noise level, float32, and sqrt(1 + sigma^2); arguments as in `svd_loss`.

    The error of v is that of the denoised latents times sqrt(1 + sigma^2) / sigma.
    """
    scaled_TCHW, total = noised(latents_TCHW, noise, sigma)
    image_TCHW = image_latents_CHW.expand(len(latents_TCHW), -1, -1, -1)
    v_TCHW = unet(torch.cat([scaled_TCHW, image_TCHW], dim=1), 0.25 * sigma.log(), context, add_time_ids)
    # float32: the differences that matter at low noise are below half precision
    return scaled_TCHW.float() / total - v_TCHW.float() * (sigma / total), total


def noised(latents: Tensor, noise: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Latents at a noise level, of unit variance, and the root of 1 + sigma^2 they were divided by."""
    total = torch.sqrt(sigma**2 + 1)
    return (latents + sigma * noise) / total, total


def script_sigmas(levels: int = 1000) -> Tensor:
    """The published script's noise levels, to be drawn evenly: half of them are above 15."""
    ramp = torch.linspace(0, 1, levels)
    last, first = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)
    return (first + ramp * (last - first)) ** RHO


def lognormal_sigmas(count: int, mean: float, std: float, generator: torch.Generator) -> Tensor:
    """Noise levels whose logarithm is normal (arXiv:2206.00364, section 5), within the sampler's range."""
    sigmas = torch.exp(mean + std * torch.randn(count, generator=generator))
    return sigmas.clamp(SIGMA_MIN, SIGMA_MAX)
