"""Colours of previews: factors from an SVD checkpoint's latents to red, green and blue, kept as metadata in its file.

    python -m tools.demo_models.svd.preview_colours exvideo_core/demo_models/svd_demo.safetensors

fits them to what the checkpoint's own autoencoder decodes, and leaves all tensors as they are. Without notes a file is
previewed with the colours of Stable Diffusion's latents, which are also the published SVD's.

Shapes: N pictures, C channels, H and W latent height and width.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from exvideo_core.families.svd.pipeline import load_svd
from exvideo_core.families.svd.vae import SCALING_FACTOR, SPATIAL_FACTOR, VAE
from exvideo_core.training.procedural.pictures import Pictures
from exvideo_core.training.randomness import generator_of
from exvideo_core.weights.preview_colours import BIAS, FACTORS
from exvideo_core.weights.write import write_weights

_PICTURES, _SIDE = 48, 128


def fit(latents_NCHW: Tensor, pictures_N3HW: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares of cells' mean colours on latents: factors [C, 3] and bias [3].

    Args:
        latents_NCHW: as the denoiser sees them.
        pictures_N3HW: of SPATIAL_FACTOR times the height and width, in [-1, 1].
    """
    colours = F.avg_pool2d(pictures_N3HW, SPATIAL_FACTOR).movedim(1, -1).flatten(0, 2)
    channels = latents_NCHW.movedim(1, -1).flatten(0, 2)
    known = torch.cat([channels, torch.ones_like(channels[:, :1])], dim=1)
    solved = torch.linalg.lstsq(known, colours).solution
    return solved[:-1], solved[-1]


@torch.no_grad()
def fit_autoencoder(vae: VAE, pictures_N3HW: Tensor) -> tuple[Tensor, Tensor]:
    """`fit` on the decoded latents of pictures, each a clip of its own."""
    latents = [vae.encode(picture) for picture in pictures_N3HW.split(1)]
    decoded = [vae.decode(latent) for latent in latents]
    return fit(torch.cat(latents) * SCALING_FACTOR, torch.cat(decoded))


def notes(factors_C3: Tensor, bias_3: Tensor) -> dict[str, str]:
    """Metadata of a file."""
    return {FACTORS: json.dumps(_rounded(factors_C3)), BIAS: json.dumps(_rounded(bias_3))}


def write_notes(checkpoint: Path) -> None:
    """Fit the colours of a checkpoint's latents, and note them in the file."""
    vae = load_svd(checkpoint, dtype=torch.float32, device="cpu").vae
    crops = Pictures(leaves=24).crops(_PICTURES, _SIDE, generator_of(0, 3))
    write_weights(checkpoint, load_file(checkpoint), notes(*fit_autoencoder(vae, crops)))


def _rounded(values: Tensor) -> list[float] | list[list[float]]:
    rounded: list[float] | list[list[float]] = values.double().mul(1e4).round().div(1e4).tolist()
    return rounded


def main(arguments: Sequence[str] | None = None) -> int:
    """Note the colours in each file that is named."""
    for name in sys.argv[1:] if arguments is None else arguments:
        write_notes(Path(name))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
