"""A small clip of each model from files, as hashes: run in several processes by `core/test_same_clip.py`."""

import hashlib
import sys
from pathlib import Path

import torch

from exvideo_core.families.cogvideox.pipeline import load_cogvideox
from exvideo_core.families.svd.pipeline import load_svd

SVD = {"num_frames": 2, "height": 128, "width": 128, "num_inference_steps": 2}
COGVIDEOX = {"num_frames": 9, "height": 32, "width": 48, "num_inference_steps": 2}


class CancelledError(Exception):
    """What a person's Cancel stands for."""


def svd(folder, **loading):
    """A function of settings that gives a clip."""
    checkpoint, extension = folder / "svd_xt.safetensors", folder / "extension.safetensors"
    pipeline = load_svd(checkpoint, extension, device=loading.pop("device", "cpu"), **loading)
    picture = torch.rand(128, 128, 3, generator=torch.Generator().manual_seed(1))
    return lambda **settings: pipeline(picture, **{**SVD, **settings})


def cogvideox(folder, **loading):
    """The same."""
    paths = {part: folder / f"cogvideox_{part}.safetensors" for part in ("transformer", "vae")}
    pipeline = load_cogvideox(**paths, device=loading.pop("device", "cpu"), **loading)
    texts = torch.randn(2, 1, 10, 8, generator=torch.Generator().manual_seed(1))
    told = {"prompt_embeds": texts[0], "negative_prompt_embeds": texts[1]}
    return lambda **settings: pipeline(**{**COGVIDEOX, **told, **settings})


def fingerprint(clip):
    """Of all bits of latents and frames."""
    return hashlib.sha256(clip.latents.numpy().tobytes() + clip.frames.numpy().tobytes()).hexdigest()


def cancel(make):
    """A run that ends in its first step."""

    def callback(*_):
        raise CancelledError

    try:
        make(callback=callback)
    except CancelledError:
        return
    raise AssertionError("it was not cancelled")


def main(folder, order):
    """Print a clip of each model, in the given order; the second after a cancelled run of the first."""
    torch.set_num_threads(1)
    makers = {"svd": svd, "cogvideox": cogvideox}
    earlier = None
    for name in order.split(","):
        make = makers[name](folder)
        if earlier:
            cancel(earlier)
            cancel(make)
        print(name, fingerprint(make()))
        earlier = make


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
