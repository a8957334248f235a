"""The real files' sizes and names: 21 GB of zeros that take no space, loaded without a copy; two real layers run."""

from __future__ import annotations

import gzip
import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from weight_names import key_hash

from exvideo_core.families.cogvideox.checkpoint import read_text_encoder, read_transformer, read_vae
from exvideo_core.families.cogvideox.config import TransformerConfig
from exvideo_core.families.cogvideox.pipeline import build_text_encoder, build_transformer, build_vae
from exvideo_core.families.cogvideox.text_encoder import TextEncoderConfig, Tokenizer, build_t5
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.weights.assign import assign_weights
from exvideo_core.weights.safetensors_files import open_weights

ROOT = Path(__file__).parents[4]
GOLDEN = json.loads(gzip.decompress((ROOT / "tests" / "golden" / "weight_names.json.gz").read_bytes()))
# file, folder in diffusers' layout, stem, number of shards, as published
PARTS = (
    ("cogvideox_5b_transformer", "transformer", "diffusion_pytorch_model", 2),
    ("cogvideox_vae", "vae", "diffusion_pytorch_model", 1),
    ("cogvideox_5b_text_encoder", "text_encoder", "model", 2),
)
LIMIT_MB = 300

Shapes = Mapping[str, tuple[int, ...]]


def write_zeros(path: Path, shapes: Mapping[str, list[int]]) -> int:
    """A bfloat16 file of these tensors that is one hole on the disk; its size in bytes."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + end)
    return path.stat().st_size


def write_model(folder: Path) -> int:
    """All parts in diffusers' layout, with an index where there are several shards; their size in bytes."""
    total = 0
    for file, part, stem, count in PARTS:
        (folder / part).mkdir()
        shapes = GOLDEN["files"][file]
        if count == 1:
            total += write_zeros(folder / part / f"{stem}.safetensors", shapes)
            continue
        names = [f"{stem}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
        where = {name: names[index * count // len(shapes)] for index, name in enumerate(shapes)}
        for shard in names:
            total += write_zeros(folder / part / shard, {n: s for n, s in shapes.items() if where[n] == shard})
        index = {"metadata": {}, "weight_map": where}
        (folder / part / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    return total


def shapes_of(weights: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def load_all(folder: Path) -> dict[str, object]:
    """In a process of its own, because the peak of memory is a process's: load everything, count what it took."""
    # transformers is large
    build_t5(TextEncoderConfig(d_model=8, num_layers=1, num_heads=1, d_kv=8, d_ff=8, vocab_size=8))
    Tokenizer()
    before = peak_mb()
    networks: list[nn.Module] = [build_transformer(read_transformer(folder)), build_vae(read_vae(folder))]
    networks.append(build_text_encoder(read_text_encoder(folder)))
    return {
        "weights": [len(list(network.parameters())) for network in networks],
        "numbers": [sum(weight.numel() for weight in network.parameters()) for network in networks],
        "grown_mb": peak_mb() - before,
    }


def test_full_size_files_load_without_a_copy(tmp_path: Path) -> None:
    size = write_model(tmp_path)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, __file__, str(tmp_path)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    result = json.loads(answer.stdout)

    assert size > 21e9
    assert sum(path.stat().st_blocks * 512 for path in tmp_path.rglob("*")) < 10e6  # or else no test for every day
    assert result["weights"] == [1024, 436, 219]
    assert result["numbers"] == [5_570_283_072, 215_583_907, 4_762_310_656]
    assert result["grown_mb"] < LIMIT_MB, result


def test_the_vae_is_the_published_one_by_its_fingerprint(tmp_path: Path) -> None:
    write_zeros(tmp_path / "vae.safetensors", GOLDEN["files"]["cogvideox_vae"])
    network = build_vae(read_vae(tmp_path / "vae.safetensors"))

    assert key_hash(open_weights(tmp_path / "vae.safetensors").shapes) == "280189ee084bca10f70907bf6ce1649d"
    assert key_hash(shapes_of(network.state_dict())) == GOLDEN["hashes"]["cogvideox_vae"]


@pytest.mark.parametrize("file", ["cogvideox_5b_transformer", "cogvideox_5b_i2v_transformer"])
def test_sizes_of_the_published_transformers_are_read_from_their_shapes(file: str) -> None:
    config = TransformerConfig.from_shapes({name: tuple(shape) for name, shape in GOLDEN["files"][file].items()})
    is_i2v = file == "cogvideox_5b_i2v_transformer"

    assert config == TransformerConfig(
        in_channels=32 if is_i2v else 16, learned_positions=17_776 if is_i2v else None, layers=42, width=3072
    )


@torch.inference_mode()
def test_two_real_layers_predict() -> None:
    names = {
        name: tuple(shape)
        for name, shape in GOLDEN["files"]["cogvideox_5b_transformer"].items()
        if not name.startswith("transformer_blocks.") or int(name.split(".")[1]) < 2
    }
    # all of them views of the same numbers: 280 million would take seconds to draw
    pool = torch.randn(max(map(math.prod, names.values())), generator=torch.manual_seed(0)) * 0.02
    weights = {name: pool[: math.prod(shape)].view(shape) for name, shape in names.items()}
    with torch.device("meta"):
        transformer = CogVideoXTransformer(TransformerConfig.from_shapes(names))
    assign_weights(transformer, weights, "two layers")
    x_BCTHW, context_BLD = torch.randn(1, 16, 3, 4, 6), torch.randn(1, 24, 4096)

    v_BCTHW = transformer(x_BCTHW, torch.tensor(999), context_BLD)

    assert v_BCTHW.shape == x_BCTHW.shape
    assert v_BCTHW.isfinite().all()
    assert float(v_BCTHW.std()) > 0.01
    assert float((transformer(x_BCTHW, torch.tensor(500), context_BLD) - v_BCTHW).abs().max()) > 0.001


if __name__ == "__main__":
    print(json.dumps(load_all(Path(sys.argv[1]))))
