"""Memory layouts on a card: channels last from the first convolution to the last, and weights as their kernels want."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from exvideo_core.families.cogvideox.norms import LatentNorm, activation

from .costs import Costs
from .device import EmulatedCuda
from .mini import mini_cogvideox, mini_svd
from .patches import placed
from .pipelines import call_unet, decode

HALF = torch.float16


def share_of_channels_first(costs: Costs) -> float:
    return costs.convolutions["channels first"] / costs.launches["convolution"]


def test_cogvideox_decodes_channels_last(cuda: EmulatedCuda) -> None:
    vae = mini_cogvideox(cuda).vae

    assert share_of_channels_first(decode(cuda, vae, 1, 16, 5, 12, 12)) < 0.25


def test_cogvideox_encodes_channels_last(cuda: EmulatedCuda) -> None:
    vae = mini_cogvideox(cuda).vae
    with torch.inference_mode():
        vae.encode(torch.zeros(1, 3, 9, 96, 96, device="cuda"))

    assert share_of_channels_first(cuda.costs) < 0.25


def activated(cuda: EmulatedCuda, chunks: int) -> Tensor:
    """A latent norm's result for the first of the chunks of a feature map."""
    norm = placed(cuda, lambda: LatentNorm(64, 16, nn), HALF, "cuda:0")
    x = torch.empty(1, 64, 8, 32, 32, dtype=HALF, device="cuda").to(memory_format=torch.channels_last_3d)
    latents = torch.empty(1, 16, 2, 8, 8, dtype=HALF, device="cuda").to(memory_format=torch.channels_last_3d)
    maps = list(x.chunk(chunks, dim=2))
    with torch.inference_mode():
        return activation(norm, maps, latents)(maps[0], slice(0, maps[0].shape[2]))


@pytest.mark.parametrize("chunks", [1, 2])
def test_a_latent_norm_keeps_channels_last(cuda: EmulatedCuda, chunks: int) -> None:
    assert activated(cuda, chunks).is_contiguous(memory_format=torch.channels_last_3d)


def test_weights_of_svd_are_not_turned_at_each_call(cuda: EmulatedCuda) -> None:
    assert call_unet(cuda, mini_svd(cuda).unet, frames=4, cells=16).convolutions["weights re-laid"] == 0


def test_weights_of_the_svd_autoencoder_are_not_turned_at_each_call(cuda: EmulatedCuda) -> None:
    assert decode(cuda, mini_svd(cuda).vae, 4, 4, 16, 16).convolutions["weights re-laid"] == 0


def test_weights_of_the_cogvideox_autoencoder_are_not_turned_at_each_call(cuda: EmulatedCuda) -> None:
    vae = mini_cogvideox(cuda).vae
    with torch.inference_mode():
        vae.encode(torch.zeros(1, 3, 9, 96, 96, device="cuda"))

    assert cuda.costs.convolutions["weights re-laid"] == 0
