"""What the tests of the nodes share: files for a server, and a model with conditioning inside of ComfyUI."""

import shutil
from dataclasses import replace
from pathlib import Path

import torch
from narrow_svd import TINY, save_files
from PIL import Image

from host.graph import nodes_of, read_graph

WORKFLOWS = sorted((Path(__file__).resolve().parents[1] / "workflows").glob("*.json"))
# What makes a workflow quick on the narrow model.
SMALL = {
    "ExVideoSVDConditioning": {"width": 128, "height": 128, "frames": 6},
    "ExVideoSampler": {"steps": 2},
}
TABLE = 12  # frames the narrow extension knows


def save_narrow_files(folder):
    """svd_xt.safetensors and an extension for TABLE frames."""
    two_layers = replace(TINY.image_encoder, layers=2)  # ComfyUI's CLIPVisionEncode returns the last but one, too
    return save_files(folder, replace(TINY, image_encoder=two_layers), TABLE)


def place_files(base, workflows):
    """The files that the workflows name, narrow, where their notes say they go; and their pictures."""
    checkpoints, extensions = base / "models" / "checkpoints", base / "models" / "exvideo"
    for folder in (checkpoints, extensions, base / "input"):
        folder.mkdir(parents=True, exist_ok=True)
    checkpoint, extension = save_narrow_files(base)
    shutil.move(checkpoint, checkpoints / "svd_xt.safetensors")
    shutil.move(extension, extensions / "model.fp16.safetensors")
    for path in workflows:
        picture = next(n["widgets_values"][0] for n in read_graph(path)["nodes"] if n["type"] == "LoadImage")
        Image.linear_gradient("L").convert("RGB").resize((160, 140)).save(base / "input" / picture)


def change(prompt, values):
    """Set inputs of all nodes of a class, except those that come through a link."""
    for kind, inputs in values.items():
        for node in nodes_of(prompt, kind):
            free = {name: value for name, value in inputs.items() if not isinstance(node["inputs"].get(name), list)}
            node["inputs"] |= free


class Run:
    """A model with the conditioning of a random picture."""

    def __init__(self, pack, model, clip_vision, vae, frames=6):
        self.pack, self.model, self.clip_vision, self.vae = pack, model, clip_vision, vae
        self.size = pack.adapters.conditioning.ClipSize(width=128, height=128, frames=frames)
        self.image = torch.rand(1, 150, 140, 3, generator=torch.Generator().manual_seed(1))
        self.positive, self.negative = pack.adapters.conditioning.condition(
            clip_vision, vae, self.image, self.size, fps=30, motion_bucket_id=127, noise=0.02, seed=3
        )
        self.latent = pack.adapters.conditioning.start_latents(vae, self.size)

    def sample(self, model=None, *, seed=3, steps=3, guidance=(2.0, 2.0), denoise=1.0, latent=None):
        options = {"seed": seed, "steps": steps, "guidance": guidance, "denoise": denoise}
        conditions = (self.positive, self.negative, latent or self.latent)
        with torch.inference_mode():
            return self.pack.adapters.sampling.sample(model or self.model, *conditions, **options)["samples"]

    def ksampler(self, model=None, *, seed=3, steps=3, cfg=2.0, scheduler="karras"):
        from nodes import common_ksampler

        conditions = (self.positive, self.negative, self.latent)
        with torch.inference_mode():
            return common_ksampler(model or self.model, seed, steps, cfg, "euler", scheduler, *conditions)[0]["samples"]


def relative(found, wanted):
    """Distance of two tensors, as a part of the wanted one's size."""
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())
