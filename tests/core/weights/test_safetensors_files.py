"""Reading safetensors: what opens, what is refused, and that nothing else can happen."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from exvideo_core.errors import CheckpointError
from exvideo_core.weights.safetensors_files import open_weights

WEIGHTS = {
    "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b.bias": torch.ones(4, dtype=torch.bfloat16),
    "c": torch.tensor(2.5, dtype=torch.float16),
    "d": torch.tensor([0.5, -1.0]).to(torch.float8_e4m3fn),
}


def packed(header: object, payload: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload


def float_entry(begin: int, end: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_tensors_shapes_and_formats_are_those_saved(path: Path) -> None:
    file = open_weights(path)

    assert file.shapes == {name: tuple(weight.shape) for name, weight in WEIGHTS.items()}
    assert file.dtypes == {name: weight.dtype for name, weight in WEIGHTS.items()}
    assert file.num_bytes == path.stat().st_size
    for name, weight in WEIGHTS.items():
        torch.testing.assert_close(file[name].float(), weight.float(), rtol=0, atol=0)


def test_tensors_are_views_of_the_mapped_file(path: Path) -> None:
    file = open_weights(path)
    first, second = file["a.weight"], file["a.weight"]

    assert first.data_ptr() == second.data_ptr()


def test_tensors_outlive_the_file_object(path: Path) -> None:
    weight = open_weights(path)["a.weight"]

    torch.testing.assert_close(weight, WEIGHTS["a.weight"])


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04" + bytes(100), "is a pickle"),
        (b"\x80\x02}q\x00." + bytes(100), "is a pickle"),
        (b"\x80\x04\x95" + bytes(100), "is a pickle"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
        (b"\n  <html lang='en'>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9559625324\n", "is a git-lfs pointer"),
        (b'{"error": "Access to this model is restricted"}', "is a text file"),
        (b"GGUF\x03\x00\x00\x00" + bytes(100), "is a GGUF file"),
        (b"\x00\x00\x00", "is not a safetensors file"),
        (b"\xff" * 100, "is not a safetensors file"),
        ((1000).to_bytes(8, "little") + b"{}", "ends within its header"),
        ((2).to_bytes(8, "little") + b"[]", "header is not readable"),
        ((2).to_bytes(8, "little") + b"{x", "header is not readable"),
        (packed({"a": {"dtype": "F32"}}), "header is not readable"),
        (packed({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, b"\0"), "stores a as F4"),
        (packed({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, bytes(8)), "contradicts its shape"),
        (packed({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, -8]}}), "header is not readable"),
        (packed({"a": float_entry(0, 8)}, bytes(5)), "5 of its 8 bytes"),
        (packed({"a": float_entry(0, 8)}, bytes(9)), "1 bytes follow"),
        (packed({"a": float_entry(0, 8), "b": float_entry(4, 12)}, bytes(12)), "does not start where"),
        (packed({"a": float_entry(4, 8)}, bytes(8)), "does not start where"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_safetensors_is_named_in_one_sentence(tmp_path: Path, contents: bytes, words: str) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(contents)

    with pytest.raises(CheckpointError, match=words) as error:
        open_weights(path)
    assert "weights.safetensors" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing\.safetensors cannot be read: No such file"):
        open_weights(tmp_path / "nothing.safetensors")


def test_every_truncation_is_refused(path: Path) -> None:
    contents = path.read_bytes()
    for length in range(len(contents)):
        path.write_bytes(contents[:length])
        with pytest.raises(CheckpointError):
            open_weights(path)


def test_a_damaged_header_is_refused_or_read_but_never_anything_else(path: Path) -> None:
    contents = path.read_bytes()
    end = 8 + int.from_bytes(contents[:8], "little")
    rng = random.Random(0)
    for _ in range(500):
        damaged = bytearray(contents)
        for _ in range(rng.choice((1, 2, 8))):
            damaged[rng.randrange(end)] = rng.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            file = open_weights(path)
            assert all(file[name].shape == file.shapes[name] for name in file)


def save_shards(folder: Path, variant: str = "") -> list[Path]:
    names = list(WEIGHTS)
    paths = [folder / f"model-0000{i}-of-00002{variant}.safetensors" for i in (1, 2)]
    save_file({name: WEIGHTS[name] for name in names[:2]}, paths[0])
    save_file({name: WEIGHTS[name] for name in names[2:]}, paths[1])
    weight_map = {name: paths[i // 2].name for i, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return paths


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_shards_are_one_file_by_folder_index_or_any_shard(tmp_path: Path, variant: str) -> None:
    shards = save_shards(tmp_path, variant)

    for path in (tmp_path, tmp_path / "model.safetensors.index.json", *shards):
        assert open_weights(path).shapes == {name: tuple(weight.shape) for name, weight in WEIGHTS.items()}


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    save_shards(tmp_path)[1].unlink()

    with pytest.raises(CheckpointError, match=r"2 files, and 1 of them are missing \(first: model-00002-of-00002"):
        open_weights(tmp_path)


def test_shards_that_repeat_tensors_are_refused(tmp_path: Path) -> None:
    first, second = save_shards(tmp_path)
    second.write_bytes(first.read_bytes())

    with pytest.raises(CheckpointError, match="repeats 2 tensors"):
        open_weights(tmp_path)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "weights.bin"])
def test_an_index_cannot_name_files_elsewhere(tmp_path: Path, name: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))

    with pytest.raises(CheckpointError, match="outside its own folder"):
        open_weights(index)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors", "model.fp16.safetensors"], "model.safetensors"),
        (["model.fp16.safetensors"], "model.fp16.safetensors"),
        (["model.fp16.safetensors", "model.non_ema.safetensors", "model.safetensors"], "model.safetensors"),
    ],
)
def test_a_folder_stands_for_its_most_precise_file(tmp_path: Path, names: list[str], chosen: str) -> None:
    for name in names:
        save_file({name: torch.zeros(1)}, tmp_path / name)

    assert list(open_weights(tmp_path)) == [chosen]


def test_a_folder_without_or_with_several_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"contains no \.safetensors file"):
        open_weights(tmp_path)
    for name in ("svd", "svd_xt"):
        save_file(WEIGHTS, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"several models \(svd, svd_xt\)"):
        open_weights(tmp_path)
