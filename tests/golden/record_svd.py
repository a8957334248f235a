"""Records `svd.safetensors`: results of the references on the narrow networks of `narrow_svd`.

Weights and inputs are seeded, so only results are recorded. The file's metadata has seed, versions and tolerances.
Run by hand, from anywhere, where diffsynth==1.1.9 and diffusers==0.42.1 are installed: python record_svd.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
from narrow_svd import NARROW, noise, save_files  # noqa: E402  found through the line above

RECORD = Path(__file__).with_name("svd.safetensors")
SEED = 0
EXTENSION_FRAMES = 40
# largest difference over largest value; rounding accumulates over the steps of a whole run
TOLERANCES = {
    "unet_plain": 1e-5,
    "unet_extended": 1e-5,
    "latents_of_video": 1e-5,
    "video_of_latents": 1e-5,
    "image_embedding": 1e-5,
    "sigmas": 1e-5,
    "sigmas_half_denoised": 1e-5,
    "run_latents": 1e-4,
}

KEPT_FRAMES = [0, 13, 26]  # of the UNet's results

RUN = {
    "num_frames": 4,
    "height": 128,
    "width": 128,
    "fps": 30,
    "motion_bucket_id": 127,
    "noise_aug_strength": 0.02,
    "num_inference_steps": 4,
}


def unet_inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """27 frames, two more than the base model was trained on; 16 cells a side, the references' minimum."""
    context = noise(1, NARROW.unet.context_dim, seed=SEED + 1)
    return noise(27, 8, 16, 16, seed=SEED), torch.tensor(0.3), context, torch.tensor([[29.0, 127.0, 0.02]])


def video() -> Tensor:
    """[T, 3, H, W] pixels."""
    return noise(2, 3, 64, 48, seed=SEED + 2).clamp(-1, 1)


def latents() -> Tensor:
    """[T, 4, h, w], raw; two windows."""
    return noise(9, 4, 3, 4, seed=SEED + 3)


def image() -> Tensor:
    """[H, W, 3] in [0, 1], exact in 8 bits."""
    coarse = torch.nn.functional.interpolate(noise(1, 3, 5, 5, seed=SEED + 4), (128, 128), mode="bilinear")
    return ((coarse[0].clamp(-1, 1) + 1) * 127.5).floor().permute(1, 2, 0) / 255


def run_noise() -> dict[str, Tensor]:
    """Replaces the noise that a run would draw."""
    return {"latents": noise(4, 4, 16, 16, seed=SEED + 5), "image_noise": noise(1, 3, 128, 128, seed=SEED + 6)}


@torch.inference_mode()
def compute() -> dict[str, Tensor]:
    """All recorded tensors: DiffSynth's results, its decoder with the norm epsilon of diffusers and sgm."""
    from parity import references

    with tempfile.TemporaryDirectory() as folder:
        checkpoint, extension = map(load_file, save_files(Path(folder), NARROW, EXTENSION_FRAMES, SEED))
    plain = references.diffsynth_pipeline(checkpoint)
    extended = references.diffsynth_pipeline(checkpoint, extension)
    decoder = references.with_published_eps(plain.vae_decoder)
    encoded = plain.vae_encoder.encode_video(video().transpose(0, 1)[None])[0].transpose(0, 1)
    record = {
        "unet_plain": plain.unet(*unet_inputs())[KEPT_FRAMES],
        "unet_extended": extended.unet(*unet_inputs())[KEPT_FRAMES],
        "latents_of_video": encoded / plain.vae_encoder.scaling_factor,
        "video_of_latents": decoder.decode_video(latents() * decoder.scaling_factor).transpose(0, 1),
        "image_embedding": plain.encode_image_with_clip(_as_picture(image())),
        "run_latents": _run(extended),
    }
    for name, denoise in (("sigmas", 1.0), ("sigmas_half_denoised", 0.5)):
        plain.scheduler.set_timesteps(25, denoising_strength=denoise)
        record[name] = plain.scheduler.sigmas
    return {name: tensor.float().contiguous() for name, tensor in record.items()}


def _run(pipe: Any) -> Tensor:
    drawn, kept = iter(run_noise().values()), []
    pipe.generate_noise = lambda *_, **__: next(drawn)
    decode = pipe.vae_decoder.decode_video
    pipe.vae_decoder.decode_video = lambda latents, **_: decode(kept.append(latents.clone()) or latents)
    pipe(
        input_image=_as_picture(image()),
        min_cfg_scale=2.0,
        max_cfg_scale=2.0,
        progress_bar_cmd=lambda steps: steps,
        **RUN,
    )
    return kept[0]


def _as_picture(image_HWC: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray((image_HWC * 255).round().byte().numpy())


def main() -> None:
    torch.set_num_threads(1)
    record = compute()
    assert record.keys() == TOLERANCES.keys()
    packages = ("diffsynth", "diffusers", "transformers", "torch")
    metadata = {
        "seed": str(SEED),
        "versions": json.dumps({name: version(name) for name in packages}),
        "tolerances": json.dumps(TOLERANCES),
    }
    save_file(record, RECORD, metadata)
    print(f"{RECORD}: {RECORD.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
