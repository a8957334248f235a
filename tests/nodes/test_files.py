"""Model files in the loaders' lists: two names of one file, what a file is, and what is said when it is missing."""

import importlib
import shutil
import time
from pathlib import Path

import pytest
import torch
from in_comfyui import split
from safetensors.torch import save_file

from exvideo_core.hub import catalog


@pytest.fixture
def files(pack):
    return importlib.import_module("..files", pack.svd.nodes.__package__)


@pytest.fixture
def models(pack, tmp_path, monkeypatch):
    """A models folder with nothing in it."""
    import folder_paths

    for name in {file.folder for file in catalog.files()}:
        (tmp_path / name).mkdir()
        paths, endings = folder_paths.folder_names_and_paths[name]
        moved = [str(tmp_path / Path(path).name) for path in paths]
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, (moved, endings))
    return tmp_path


@pytest.fixture
def extension(models):
    """A file that is recognised as an extension, under its published name."""
    path = models / "exvideo" / "model.fp16.safetensors"
    save_file({"blocks.7.norm_in.weight": torch.zeros(320)}, path)
    return path


def loader(pack, node_id):
    (node,) = [node for node in pack.nodes if node.GET_SCHEMA().node_id == node_id]
    return node


def validate(pack, **chosen):
    return loader(pack, "ExVideoSVDLoader").validate_inputs(**{"checkpoint": "demo svd", **chosen})


@pytest.mark.parametrize("name", ["model.fp16.safetensors", "ExVideo-SVD-128f-v1.fp16.safetensors", "none", None])
def test_a_published_file_is_known_by_both_names(pack, extension, name):
    assert validate(pack, extension=name) is True
    if name not in ("none", None):
        assert pack.svd.files.EXTENSIONS.find_optional(name) == extension


def test_a_published_name_means_what_the_file_is(pack, models):
    other = models / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({"conv.weight": torch.zeros(2, 2)}, other)

    assert pack.cogvideox.files.VAES.find(other.name) == other
    assert pack.cogvideox.files.VAES.look_for("CogVideoX-5b-vae.safetensors") is None


def test_a_published_file_is_found_in_a_folder_of_the_users(pack, extension):
    (extension.parent / "video").mkdir()
    moved = shutil.move(extension, extension.parent / "video" / extension.name)

    assert pack.svd.files.EXTENSIONS.find_optional("ExVideo-SVD-128f-v1.fp16.safetensors") == moved


def test_shards_are_known_by_both_names_when_both_are_there(pack, models, cog_files):
    shard = models / "diffusion_models" / "diffusion_pytorch_model-00001-of-00002.safetensors"
    split(cog_files[0], shard)
    name = "CogVideoX-5b-transformer-00001-of-00002.safetensors"

    assert pack.cogvideox.files.TRANSFORMERS.look_for(name) == shard
    shard.with_name(shard.name.replace("00001-of", "00002-of")).unlink()
    assert pack.cogvideox.files.TRANSFORMERS.look_for(name) is None


@pytest.mark.parametrize("name", ["model.fp16.safetensors", "ExVideo-SVD-128f-v1.fp16.safetensors"])
def test_a_missing_file_is_answered_with_where_to_get_it_and_where_to_put_it(pack, models, name):
    said = validate(pack, extension=name)

    for words in (
        f"extension: {name} is not in {models / 'exvideo'}.",
        "ExVideo's extension of SVD to 128 frames (1.7 GB)",
        "the node Download ExVideo Models (ExVideo-SVD-128f-v1.fp16.safetensors)",
        "`exvideo download exvideo-svd-128f`",
        "https://huggingface.co/ECNU-CILab/ExVideo-SVD-128f-v1",
        "press R",
    ):
        assert words in said
    with pytest.raises(pack.errors.CheckpointError, match="Download ExVideo Models"):
        pack.svd.files.EXTENSIONS.find_optional(name)


def test_a_missing_shard_is_answered_with_both(pack, models):
    said = loader(pack, "ExVideoCogVideoXLoader").validate_inputs(
        transformer="CogVideoX-5b-transformer-00001-of-00002.safetensors", text_encoder="demo cogvideox"
    )

    assert "(11.1 GB)" in said
    assert "`exvideo download cogvideox-5b-transformer`" in said


def test_a_missing_file_of_ones_own_is_asked_for(pack, models):
    said = loader(pack, "ExVideoLoRAApply").validate_inputs(lora="mine.safetensors")

    assert said.startswith(f"lora: mine.safetensors is not in {models / 'loras'}. Put it there")


def test_an_empty_list_is_answered_with_what_belongs_there(pack, models):
    said = validate(pack, checkpoint="")

    assert said.startswith(
        f"checkpoint: there is no file in {models / 'checkpoints'}. What belongs there is Stable Video"
    )


def test_lists_say_what_the_files_are(pack, files, models, extension):
    checkpoints = models / "checkpoints"
    (checkpoints / "cut.safetensors").write_bytes((9999).to_bytes(8, "little") + b"{}")
    (checkpoints / "page.safetensors").write_bytes(b"<!doctype html>")
    (checkpoints / "old.ckpt").write_bytes(b"PK\x03\x04 and more")
    save_file({"conv.weight": torch.zeros(2, 2)}, checkpoints / "other.safetensors")
    found = files.labels()

    assert found["checkpoints"] == {
        "cut.safetensors": "incomplete",
        "page.safetensors": "a web page",
        "old.ckpt": "a pickle",
        "other.safetensors": "unknown file",
        "demo svd": "SVD checkpoint, fp16",
    }
    assert found["exvideo"]["model.fp16.safetensors"] == "ExVideo extension of SVD, incomplete"
    assert found["exvideo"]["demo 128 frames"] == "ExVideo extension of SVD for 128 frames, fp16"
    assert found["loras"] == {"demo 129 frames": "CogVideoX LoRA of rank 32, fp16"}


def test_many_files_are_read_once_until_they_change(pack, files, models, extension, monkeypatch):
    for number in range(200):
        shutil.copy(extension, models / "loras" / f"{number:03}.safetensors")
    opened = []
    read = files.open_weights
    monkeypatch.setattr(files, "open_weights", lambda path: opened.append(path.name) or read(path))
    start = time.monotonic()
    files.labels()
    first = len(opened)

    assert first >= 200
    assert time.monotonic() - start < 10
    files.labels()
    assert len(opened) == first
    save_file({"blocks.7.norm_in.weight": torch.zeros(640)}, models / "loras" / "007.safetensors")
    files.labels()
    assert opened[first:] == ["007.safetensors"]


def test_new_files_go_to_the_first_folder_of_that_name(pack, models):
    import folder_paths

    assert pack.host.main_folder("diffusion_models") == models / "diffusion_models"  # ComfyUI names models/unet first
    folder_paths.add_model_folder_path("exvideo", str(models / "other" / "exvideo"), is_default=True)
    assert pack.host.main_folder("exvideo") == models / "other" / "exvideo"
