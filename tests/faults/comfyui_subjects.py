"""The same work done by the pack's adapters inside of ComfyUI, which is imported into this process.

Sampling is not exact after a fault: ComfyUI's attention, too, tries again in slices where memory ends.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import narrow_svd
import torch
from in_comfyui import CogRun, Run, save_cogvideox_files, save_narrow_files, save_random_lora
from narrow_svd import noise
from torch import Tensor

from .cancel import Check, Work
from .core_subjects import TWO_LEVELS
from .disk import attempt, knowing_ffmpeg
from .no_memory import Subject
from .outcomes import LOST, OTHER, Count

TESTS = Path(__file__).resolve().parents[1]
FOLDER = tempfile.TemporaryDirectory(prefix="exvideo-faults-")


@lru_cache
def pack() -> Any:
    """The pack's modules, as ComfyUI imports them."""
    from host.comfyui_trees import NEWEST
    from host.environment import Environment

    sys.path.insert(0, str(Environment(TESTS.parent).tree(NEWEST)))
    return _conftest().import_pack(Path(FOLDER.name))


def _conftest() -> ModuleType:
    specification = importlib.util.spec_from_file_location("faults_nodes_conftest", TESTS / "nodes" / "conftest.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@lru_cache
def _svd_parts() -> Any:
    files = save_narrow_files(Path(FOLDER.name))
    return pack().svd.loading.load_svd(*files, torch.float32)


@lru_cache
def _cog_parts() -> Any:
    return pack().cogvideox.loading.load_cogvideox(*save_cogvideox_files(Path(FOLDER.name)), torch.float32)


def svd_run() -> Run:
    """Of a UNet with two levels, for two frames."""
    _, clip_vision, vae = _svd_parts()
    weights = narrow_svd.build_unet(TWO_LEVELS, 8).state_dict()
    model = pack().comfy_bridge.loading.make_model(pack().svd.model.SVDModel, weights, "narrow", torch.float32)
    return Run(pack(), model, clip_vision, vae, frames=2)


def svd_sampling() -> Subject:
    """Two steps."""
    run = svd_run()
    return Subject(
        "ComfyUI, SVD sampling",
        lambda: [run.sample(steps=2, guidance=(1.0, 1.0))],
        (run.model.model.diffusion_model,),
        (run.latent["samples"],),
        is_exact=False,  # where memory ends in ComfyUI's own attention, it goes on by another way
    )


def svd_conditioning() -> Subject:
    """A picture."""
    run = svd_run()

    def work() -> Sequence[Tensor]:
        with torch.inference_mode():
            positive, _ = pack().svd.conditioning.condition(
                run.clip_vision, run.vae, run.image, run.size, fps=30, motion_bucket_id=127, noise=0.02, seed=3
            )
        return [positive[0][0], positive[0][1]["concat_latent_image"]]

    return Subject("ComfyUI, SVD conditioning", work, (run.vae.first_stage_model,))


def cog_sampling() -> Subject:
    """Two steps with guidance."""
    run = CogRun(pack(), *_cog_parts())
    return Subject(
        "ComfyUI, CogVideoX sampling",
        lambda: [run.sample(steps=2)],
        (run.model.model.diffusion_model,),
        (run.latent["samples"],),
        is_exact=False,  # where memory ends in ComfyUI's own attention, it goes on by another way
    )


def cog_sampling_with_lora() -> Subject:
    """With a LoRA that ComfyUI patches in, and then without it."""
    run = CogRun(pack(), *_cog_parts())
    lora = save_random_lora(Path(FOLDER.name) / "lora.safetensors")
    patched, _ = pack().cogvideox.lora.apply(run.model, lora, 1.0)
    return Subject(
        "ComfyUI, CogVideoX with a LoRA, then without",
        lambda: [run.sample(patched, steps=1), run.sample(steps=1)],
        kept=(run.latent["samples"],),
        is_exact=False,  # as above
    )


def decoding(model: str) -> Subject:
    """Through ComfyUI's VAE object."""
    vae, latents = (_svd_parts()[2], noise(12, 4, 4, 4)) if model == "SVD" else (_cog_parts()[2], noise(1, 16, 5, 4, 4))
    return _coding(f"ComfyUI, {model} decoding", vae, lambda: [vae.decode(latents)], latents)


def encoding(model: str) -> Subject:
    """The same."""
    vae, frames = (_svd_parts()[2] if model == "SVD" else _cog_parts()[2]), torch.rand(9, 32, 32, 3)
    return _coding(f"ComfyUI, {model} encoding", vae, lambda: [vae.encode(frames)], frames)


def _coding(where: str, vae: Any, work: Callable[[], Sequence[Tensor]], kept: Tensor) -> Subject:
    return Subject(where, torch.inference_mode()(work), (vae.first_stage_model,), (kept,))


def cancelled(subject: Subject) -> Work:
    """Its work, where Cancel is what ComfyUI asks for at every layer, step, window and piece."""
    from comfy import model_management

    def run(check: Check) -> Sequence[Tensor]:
        with patch.object(model_management, "throw_exception_if_processing_interrupted", check):
            return subject.work()

    return Work(subject.where, run, subject.networks)


# the node that saves


def _save(folder: Path, kind: str = "mp4, h264", progress: Callable[..., None] | None = None) -> None:
    from types import SimpleNamespace

    import folder_paths

    node = pack().video.ExVideoSave.PREPARE_CLASS_CLONE(None)
    node.hidden = SimpleNamespace(prompt={"1": {}}, extra_pnginfo={"workflow": {}})
    from .disk import CLIP

    with patch.object(folder_paths, "output_directory", str(folder)):
        node.execute(CLIP, 8.0, kind, "high", "clip", poster=True)


def saving_on_full_disks(stride: int) -> Count:
    """The node, where there is room for nothing, a little more, and so on; then once more where there is."""
    from .disk import disk

    count = Count()
    with knowing_ffmpeg():
        for pages in range(2, 80, 3 * stride):
            with disk(4096 * pages) as folder:
                if folder is None:
                    return count
                attempt(count, f"node, {pages} pages", folder, lambda f=folder: _save(f))
            with tempfile.TemporaryDirectory() as roomy:
                _save(Path(roomy))
                if len(list(Path(roomy).iterdir())) != 2:
                    count.add_harm(LOST, f"node, {pages} pages: the frames could not be saved again")
    return count


def saving_at_once(stride: int) -> Count:
    """Several saves of one name at the same moment: all must be there."""
    count = Count()
    with tempfile.TemporaryDirectory() as name, knowing_ffmpeg():
        folder = Path(name)
        for round_ in range(0, 10, stride):
            threads = [threading.Thread(target=_save, args=(folder,)) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            attempt(count, f"round {round_}", folder, lambda: None)
            found = len(list(folder.glob("*.mp4"))), len(list(folder.glob("*.png")))
            if found != (6 * (round_ // stride + 1),) * 2:
                count.add_harm(OTHER, f"round {round_}: {found} files")
    return count
