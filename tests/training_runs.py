"""Small training runs in processes of their own: several at a time like torchrun's, and such as can be killed."""

from __future__ import annotations

import csv
import multiprocessing
import os
import socket
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import narrow_cogvideox
import narrow_svd
import yaml
from safetensors.torch import save_file

# forked from a server that has imported everything: a run starts in no time
_CONTEXT = multiprocessing.get_context("forkserver") if os.name == "posix" else multiprocessing.get_context()
if os.name == "posix":
    _CONTEXT.set_forkserver_preload(["tests.training_preload"])  # found from the repository's root, where tests run


def svd_config(folder: Path, **changes: Any) -> Path:
    """A run of the least SVD on drawn pictures; changes are of the form run__steps=3."""
    checkpoint = folder / "svd_xt.safetensors"
    if not checkpoint.exists():
        narrow_svd.save_files(folder)
    return _written(
        folder,
        {
            "target": "svd",
            "run": {
                "name": "extension",
                "steps": 20,
                "batch_size": 2,
                "save_every": 10,
                "held_out_every": 10,
                "average": 0.9,
            },
            "model": {"checkpoint": str(checkpoint), "num_frames": 4, "base_frames": 2},
            "data": {"source": "procedural", "width": 128, "height": 128, "held_out": 1, "pictures": 3},
            "optimizer": {"learning_rate": 1e-3, "warmup_steps": 3},
        },
        changes,
    )


def cogvideox_config(folder: Path, **changes: Any) -> Path:
    """A run of the least CogVideoX on drawn shapes."""
    text_encoder = folder / "text_encoder.safetensors"
    if not text_encoder.exists():
        narrow_cogvideox.save_files(folder)
        weights = narrow_cogvideox.build_text_encoder().t5.state_dict()
        save_file({name: w.clone() for name, w in weights.items() if "embed_tokens" not in name}, text_encoder)
    return _written(
        folder,
        {
            "target": "cogvideox",
            "run": {
                "name": "extension",
                "steps": 20,
                "batch_size": 2,
                "save_every": 10,
                "held_out_every": 10,
                "average": 0.9,
            },
            "model": {
                "transformer": str(folder / "cogvideox_transformer.safetensors"),
                "vae": str(folder / "cogvideox_vae.safetensors"),
                "text_encoder": str(text_encoder),
                "num_frames": 17,
                "base_frames": 9,
                "rank": 4,
            },
            "data": {"source": "procedural", "width": 96, "height": 96, "held_out": 1, "windows": [2]},
            "optimizer": {"learning_rate": 1e-2, "warmup_steps": 3},
        },
        changes,
    )


def _written(folder: Path, config: dict[str, Any], changes: Mapping[str, Any]) -> Path:
    for key, value in changes.items():
        part, _, name = key.partition("__")
        config.setdefault(part, {})[name] = value
    output = Path(config["run"].setdefault("output", str(folder / "run")))
    path = folder / f"{output.name}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def start(config: Path, rank: int = 0, world: int = 1, port: int = 0) -> BaseProcess:
    """`python -m exvideo_core.training CONFIG`, as torchrun would start it if there are several."""
    process = _CONTEXT.Process(target=_train, args=(str(config), rank, world, port), daemon=True)
    process.start()
    return process


def run(config: Path, world: int = 1, timeout: float = 240) -> list[int | None]:
    """Run to the end with so many processes; their exit codes."""
    port = free_port()
    processes = [start(config, rank, world, port) for rank in range(world)]
    for process in processes:
        process.join(timeout)
        process.kill()
    return [process.exitcode for process in processes]


def _train(config: str, rank: int, world: int, port: int) -> None:
    _place(rank, world, port)
    from exvideo_core.cli import main

    with open(said(Path(config)), "a") as sys.stderr:  # what it says can be read, and does not fill the screen
        status = main(["train", config, "--device", "cpu"])
    raise SystemExit(status)


def said(config: Path) -> Path:
    """Where a run's messages are."""
    return config.with_suffix(".said")


def bytes_held(config: Path, world: int, folder: Path) -> list[dict[str, int]]:
    """What each process keeps after a step, by kind."""
    import json

    port = free_port()
    processes = [
        _CONTEXT.Process(target=_measure, args=(str(config), rank, world, port, str(folder)), daemon=True)
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    return [json.loads((folder / f"{rank}_of_{world}.json").read_text()) for rank in range(world)]


def _measure(config: str, rank: int, world: int, port: int, folder: str) -> None:
    _place(rank, world, port)
    import json

    from exvideo_core.registry import training_recipes
    from exvideo_core.runtime.distributed import init_world
    from exvideo_core.training.config import read_config
    from exvideo_core.training.loop import make_engine

    settings = read_config(Path(config), training_recipes())
    with init_world("cpu", always=settings.run.engine == "deepspeed") as joined:
        target = training_recipes()[settings.target]().build(settings, joined, None)
        engine = make_engine(settings, target, joined)
        count = settings.run.batch_size // world
        engine.backward(iter([lambda: target.loss(rank, 0)] * count), count)
        engine.step(1.0)
        Path(folder, f"{rank}_of_{world}.json").write_text(json.dumps(engine.bytes_held()))


def _place(rank: int, world: int, port: int) -> None:
    import torch
    import training_preload  # noqa: F401  it also sets up DeepSpeed

    torch.set_num_threads(1)
    place = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def column(output: Path, name: str, table: str = "log.csv") -> list[str]:
    """A column of a run's table, as text: equal text is equal bits."""
    with (output / table).open(newline="") as file:
        return [row[name] for row in csv.DictReader(file)]
