"""Print what calls of the published networks launch, wait for, copy and hold on an emulated card.

python -m tests.emulated_cuda                  every call, some minutes each
python -m tests.emulated_cuda --only "VAE"     those with this in their name
python -m tests.emulated_cuda --card RTX_3060
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from exvideo_core.families.cogvideox.config import TransformerConfig, VAEConfig as CogVAEConfig
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.families.cogvideox.vae import CogVideoXVAE
from exvideo_core.families.svd.config import UNetConfig, VAEConfig
from exvideo_core.families.svd.unet import SVDUNet
from exvideo_core.families.svd.vae import VAE
from exvideo_core.nn.attention import BACKENDS

from . import cards
from .costs import Costs
from .device import EmulatedCuda
from .patches import emulated, placed
from .pipelines import BRAIN, EXTENSION_FRAMES, HALF, call_transformer, call_unet, decode, fresh

Call = Callable[[EmulatedCuda], Costs]


def unet(frames: int, cells: int) -> Call:
    def call(cuda: EmulatedCuda) -> Costs:
        config = UNetConfig(extension_frames=EXTENSION_FRAMES)
        network = placed(cuda, lambda: SVDUNet(config, attention=BACKENDS["auto"]), HALF, "cuda:0")
        return call_unet(cuda, network, frames=frames, cells=cells)

    return call


def svd_window(cells: int) -> Call:
    def call(cuda: EmulatedCuda) -> Costs:
        return decode(cuda, placed(cuda, lambda: VAE(VAEConfig()), HALF, "cuda:0"), 8, 4, cells, cells)

    return call


def transformer(cuda: EmulatedCuda) -> Costs:
    network = placed(
        cuda, lambda: CogVideoXTransformer(TransformerConfig(), attention=BACKENDS["auto"]), BRAIN, "cuda:0"
    )
    return call_transformer(cuda, network, frames=33, height=60, width=90)


def cogvideox_frames(cuda: EmulatedCuda) -> Costs:
    return decode(cuda, placed(cuda, lambda: CogVideoXVAE(CogVAEConfig()), BRAIN, "cuda:0"), 1, 16, 5, 60, 90)


CALLS: dict[str, Call] = {
    "SVD VAE, a window of 8 frames of 512x512": svd_window(64),
    "SVD VAE, a window of 8 frames of 1024x1024": svd_window(128),
    "SVD UNet, 128 frames of 256x256": unet(128, 32),
    "SVD UNet, 128 frames of 512x512": unet(128, 64),
    "SVD UNet, 128 frames of 1024x1024": unet(128, 128),
    "CogVideoX VAE, 17 frames of 720x480": cogvideox_frames,
    "CogVideoX transformer, 129 frames of 720x480": transformer,
}


def lines(name: str, costs: Costs, cuda: EmulatedCuda) -> list[str]:
    """A call's costs, for people; 1 GB is 1e9 bytes."""
    peak, at = cuda.memory.peak["cuda:0"], cuda.memory.peak_at["cuda:0"]
    most = ", ".join(f"{operation} {count}" for operation, count in costs.launches.most_common(6))
    copies = ", ".join(f"{count} {way} ({costs.copied[way] / 1e9:.2f} GB)" for way, count in costs.copies.items())
    return [
        name,
        f"  launches  {costs.launches.total()}: {most}; in float64: {costs.float64.total()}",
        f"  waits     {', '.join(f'{count} {cause}' for cause, count in costs.waits.items()) or 'none'}",
        f"  copies    {copies or 'none'}; to float32: {costs.widened.total() / 1e9:.1f} GB",
        f"  memory    {peak / 1e9:.2f} GB at most, in {at}",
        f"  layouts   {dict(costs.convolutions)} of {costs.launches['convolution']} convolutions",
        f"  attention {dict(costs.attention)}, largest scores {costs.scores / 1e9:.2f} GB",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of a call's name")
    parser.add_argument("--card", default="H200", help="a name in tests/emulated_cuda/cards.py")
    options = parser.parse_args()
    torch.set_num_threads(1)  # nothing is computed
    for name, call in CALLS.items():
        if options.only in name:
            with fresh(), emulated(getattr(cards, options.card)) as cuda:
                print("\n".join(lines(name, call(cuda), cuda)), flush=True)


if __name__ == "__main__":
    main()
