"""A folder with the files that the documentation speaks of, in which its commands and Python run.

The names are the published ones; the contents are narrow networks with random weights, small pictures and short videos.
What a command asks for is made small: few frames of few pixels, two steps.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import narrow_cogvideox
import narrow_svd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from training_videos import write_video

from exvideo_core import CogVideoXPipeline, SVDPipeline
from exvideo_core.lora import new_lora, save_lora

ROOT = Path(__file__).resolve().parents[1]
# what is made in place of what is asked for, in the pipelines' words
SMALL = {
    "svd": {"width": 128, "height": 128, "num_frames": 6, "num_inference_steps": 2},
    "cogvideox": {"width": 96, "height": 64, "num_frames": 9, "num_inference_steps": 2},
}
LORAS = ("ExVideo-CogVideoX-LoRA-129f-v1.safetensors", "my_lora.safetensors", "style.safetensors")
EXTENSIONS = ("ExVideo-SVD-128f-v1.fp16.safetensors", "model.fp16.safetensors", "my_extension.safetensors")
# what `exvideo download` calls the parts of CogVideoX-5b
FETCHED = {
    "transformer/diffusion_pytorch_model-00001-of-00002": "CogVideoX-5b-transformer-00001-of-00002",
    "transformer/diffusion_pytorch_model-00002-of-00002": "CogVideoX-5b-transformer-00002-of-00002",
    "text_encoder/model": "t5xxl_fp16",
    "vae/diffusion_pytorch_model": "CogVideoX-5b-vae",
}
PICTURES = ("cat.png", "first.png", "middle.png", "last.png")
VIDEOS = ("cat.mp4", "boat.mp4", "clip.mp4")
# words that stand for something of the reader's own, as one of the files below
PLACEHOLDERS = {
    "FILE": "model.fp16.safetensors",
    "VIDEO": "clip.mp4",
    "VIDEO...": "clip.mp4",
    "DIR": "made",
    "CONFIG.yaml": "my_extension.yaml",
    "EXTENSION.yaml": "my_extension.yaml",
    "benchmarks/results/FILE.json": "benchmarks/results/2026-11-25-cpu.json",
}


def fill(folder: Path) -> None:
    """Put everything into an empty folder."""
    _, extension = narrow_svd.save_files(folder, extension_frames=128)
    for name in EXTENSIONS:
        shutil.copy(extension, folder / name)
    _save_cogvideox(folder / "CogVideoX-5b")
    for name in LORAS:
        lora = new_lora(narrow_cogvideox.build_transformer(), rank=2)
        for pair in lora.pairs.values():
            torch.nn.init.ones_(pair.up)
        save_lora(folder / name, lora)
    for i, name in enumerate(PICTURES):
        Image.new("RGB", (160, 140), (200, 80, 40 * i)).save(folder / name)
    for name in (*VIDEOS, "videos/1.mp4", "videos/2.mp4", "videos/3.mp4"):
        write_video(folder / name, num_frames=24, size=(128, 128), noise=20)
    shutil.copytree(ROOT / "samples", folder / "samples")
    for target, name in (("svd", "my_extension.yaml"), ("cogvideox", "my_lora.yaml")):
        (folder / name).write_text(template(target), encoding="utf-8")


def _save_cogvideox(folder: Path) -> None:
    """The published folder: its parts, two shards of the transformer, a file that says what it is."""
    transformer = narrow_cogvideox.build_transformer().state_dict()
    half = len(transformer) // 2
    items = list(transformer.items())
    t5 = narrow_cogvideox.build_text_encoder().t5.state_dict()
    parts = {
        "transformer/diffusion_pytorch_model-00001-of-00002": dict(items[:half]),
        "transformer/diffusion_pytorch_model-00002-of-00002": dict(items[half:]),
        "text_encoder/model": {name: weight for name, weight in t5.items() if "embed_tokens" not in name},
        "vae/diffusion_pytorch_model": narrow_cogvideox.build_vae().state_dict(),
    }
    for name, weights in parts.items():
        file = folder / f"{name}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, file)
        shutil.copy(file, folder.parent / f"{FETCHED[name]}.safetensors")
    (folder / "model_index.json").write_text('{"_class_name": "CogVideoXPipeline"}', encoding="utf-8")


def template(target: str) -> str:
    """What `exvideo train --init` writes, pointed at the sandbox's files as the page tells people to."""
    from exvideo_core.registry import training_recipes
    from exvideo_core.training.config import write_template

    return yaml.safe_dump(pointed(yaml.safe_load(write_template(training_recipes()[target]().config))))


def pointed(contents: dict[str, Any]) -> dict[str, Any]:
    """A configuration that trains the sandbox's models, small and for one step."""
    contents["run"] |= {"steps": 1, "batch_size": 1, "save_every": 1, "held_out_every": 1, "precision": "fp32"}
    contents["data"] |= {"source": "videos", "held_out": 1}
    model = dict.fromkeys(("transformer", "text_encoder", "vae"), "CogVideoX-5b") | {"rank": 2}
    small = SMALL[contents["target"]]
    contents["model"] |= {"checkpoint": "svd_xt.safetensors"} if contents["target"] == "svd" else model
    contents["model"] |= {"num_frames": small["num_frames"]}
    contents["data"] |= {"width": small["width"], "height": small["height"]}
    return contents


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let calls of the pipelines make few frames of few pixels in few steps, whatever they ask for."""
    for pipeline, small in ((SVDPipeline, SMALL["svd"]), (CogVideoXPipeline, SMALL["cogvideox"])):
        monkeypatch.setattr(pipeline, "__call__", _made_small(pipeline.__call__, small))


def _made_small(call: Callable[..., Any], small: dict[str, int]) -> Callable[..., Any]:
    def make(pipeline: SVDPipeline | CogVideoXPipeline, *given: Any, **settings: Any) -> Any:
        if settings.get("init_video") is not None:
            settings["init_video"] = settings["init_video"][: small["num_frames"]]
        if settings.get("keyframes"):  # the last one asked for is the last one there is
            last = small["num_frames"] - 1
            settings["keyframes"] = {min(i, last): picture for i, picture in settings["keyframes"].items()}
        return call(pipeline, *given, **{**settings, **small})

    return make
