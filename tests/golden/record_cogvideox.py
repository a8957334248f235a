"""Records `cogvideox.safetensors`: results of the references on the narrow networks of `narrow_cogvideox`.

Weights and inputs are seeded, so only results are recorded. The file's metadata has seed, versions and tolerances.
Run by hand, from anywhere, where diffsynth==1.1.9 and diffusers==0.42.1 are installed: python record_cogvideox.py
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
from narrow_cogvideox import NARROW, build_pipeline, build_transformer  # noqa: E402  found through the line above
from narrow_svd import noise  # noqa: E402  likewise

RECORD = Path(__file__).with_name("cogvideox.safetensors")
SEED = 0
# largest difference over largest value; rounding accumulates over the steps of a whole run
TOLERANCES = {
    "velocity": 1e-5,
    "velocity_of_picture": 1e-5,
    "latents_of_video": 1e-5,
    "video_of_latents": 1e-5,
    "text_embedding": 1e-5,
    "alphas": 1e-5,
    "timesteps": 0.0,
    "timesteps_half_denoised": 0.0,
    "timesteps_trailing": 0.0,
    "run_latents": 1e-4,
    "run_latents_trailing": 1e-4,
}

KEPT_FRAMES = [0, 13, 32]  # of the transformer's results
KEPT_TOKENS = [0, 1, 7, 225]  # of the text embedding
KEPT_TIMESTEPS = [0, 1, 250, 500, 750, 998, 999]  # of the alphas
PICTURE = (3, 4, 6)  # T, h, w that the image-to-video transformer has positions for
MOVER = replace(NARROW.transformer, in_channels=32, learned_positions=5 + 3 * 2 * 3)  # narrow, image to video

PROMPT, NEGATIVE = "a red circle moves right on blue", "blurry"
# of the training resolution's aspect ratio, at which both references have equal rotary positions
RUN = {"num_frames": 9, "height": 32, "width": 48, "num_inference_steps": 4}


def velocity_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """33 latent frames, the extended length, of another aspect ratio than in training."""
    return noise(1, 16, 33, 6, 4, seed=SEED), torch.tensor([499]), noise(1, 7, NARROW.transformer.text_dim, seed=1)


def picture_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """A short clip with its conditioning image, in twice the channels."""
    return noise(1, 32, *PICTURE, seed=SEED + 2), torch.tensor([20]), noise(1, 5, NARROW.transformer.text_dim, seed=3)


def video() -> Tensor:
    """[1, 3, F, H, W] pixels; two temporal chunks."""
    return noise(1, 3, 17, 16, 24, seed=SEED + 4).clamp(-1, 1)


def latents() -> Tensor:
    """[1, 16, T, h, w] in the transformer's scale; two temporal chunks."""
    return noise(1, 16, 5, 2, 3, seed=SEED + 5)


def run_noise() -> Tensor:
    """Replaces the noise that a run would draw."""
    return noise(1, 16, 3, 4, 6, seed=SEED + 6)


@torch.inference_mode()
def compute() -> dict[str, Tensor]:
    """All recorded tensors: DiffSynth's results, and diffusers' where DiffSynth lacks the feature."""
    from parity import references_cogvideox as references

    ours = build_pipeline(NARROW, SEED)
    synth, diffusers = references.diffsynth_pipeline(ours), references.diffusers_pipeline(ours)
    mover = references.diffusers_transformer(build_transformer(MOVER, SEED).state_dict(), MOVER, 5, PICTURE)
    record = {
        "velocity": synth.dit(*velocity_inputs())[:, :, KEPT_FRAMES],
        "velocity_of_picture": references.diffusers_velocity(mover, *picture_inputs()),
        "latents_of_video": synth.vae_encoder.encode_small_video(video()),  # in the transformer's scale
        "video_of_latents": synth.vae_decoder.decode_small_video(latents()),
        "text_embedding": synth.encode_prompt(PROMPT)["prompt_emb"][:, KEPT_TOKENS],
        "alphas": torch.tensor(synth.scheduler.alphas_cumprod)[KEPT_TIMESTEPS],
        "run_latents": references.run_diffsynth(synth, run_noise(), PROMPT, NEGATIVE, cfg_scale=7.0, **RUN),
        "run_latents_trailing": diffusers(
            PROMPT, NEGATIVE, latents=run_noise().transpose(1, 2), guidance_scale=6.0, output_type="latent", **RUN
        ).frames.transpose(1, 2),
    }
    for name, denoise in (("timesteps", 1.0), ("timesteps_half_denoised", 0.5)):
        record[name] = references.diffsynth_scheduler(50, denoise).timesteps
    record["timesteps_trailing"] = references.diffusers_scheduler("CogVideoXDDIMScheduler", 30).timesteps
    return {name: tensor.float().contiguous() for name, tensor in record.items()}


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
