"""Narrow files as people have them, our pipelines loaded from them, and the references with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import torch
from narrow_svd import NARROW, save_files
from safetensors.torch import load_file
from torch import Tensor

from exvideo_core import SVDPipeline, load_svd
from parity import references

EXTENSION_FRAMES = 40
RelativeError = Callable[[Tensor, Tensor], float]


@pytest.fixture(scope="session", autouse=True)
def _references_are_installed() -> None:
    for package in ("diffsynth", "diffusers"):
        try:
            version(package)
        except PackageNotFoundError:
            pytest.skip(f"{package} is not installed: `python run.py test` installs it")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """svd_xt.safetensors and an extension, narrow, in the published names."""
    return save_files(tmp_path_factory.mktemp("narrow"), NARROW, EXTENSION_FRAMES)


@pytest.fixture(scope="session")
def plain(files: tuple[Path, Path]) -> SVDPipeline:
    """SVD from a single file in sgm names."""
    return load_svd(files[0], dtype=torch.float32, device="cpu")


@pytest.fixture(scope="session")
def extended(files: tuple[Path, Path]) -> SVDPipeline:
    """The same with the extension."""
    return load_svd(*files, dtype=torch.float32, device="cpu")


@pytest.fixture(scope="session")
def diffusers_folder(plain: SVDPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as diffusers itself saves them."""
    folder = tmp_path_factory.mktemp("diffusers")
    references.diffusers_unet(plain.unet.state_dict()).save_pretrained(folder / "unet")
    references.diffusers_vae(plain.vae.state_dict()).save_pretrained(folder / "vae")
    plain.image_encoder.clip.save_pretrained(folder / "image_encoder")
    return folder


@pytest.fixture(scope="session")
def from_diffusers(diffusers_folder: Path, files: tuple[Path, Path]) -> dict[str, SVDPipeline]:
    """SVD from that folder, and with the extension over it."""
    return {
        "plain": load_svd(diffusers_folder, dtype=torch.float32, device="cpu"),
        "extended": load_svd(diffusers_folder, files[1], dtype=torch.float32, device="cpu"),
    }


@pytest.fixture(scope="session")
def reference_plain(files: tuple[Path, Path]) -> Any:
    """DiffSynth's pipeline over the file."""
    return references.diffsynth_pipeline(load_file(files[0]))


@pytest.fixture(scope="session")
def reference_extended(files: tuple[Path, Path]) -> Any:
    """The same with the extension."""
    return references.diffsynth_pipeline(load_file(files[0]), load_file(files[1]))


@pytest.fixture
def relative_error(request: pytest.FixtureRequest) -> RelativeError:
    """Largest difference over largest value; each is kept in the test report."""

    def measure(ours: Tensor, reference: Tensor) -> float:
        assert ours.shape == reference.shape
        error = float((ours - reference).abs().max() / reference.abs().max())
        request.node.user_properties.append(("relative_error", error))
        return error

    return measure
