"""Jobs that several processes do together, as torchrun would start them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from narrow_cogvideox import TINY, build_transformer
from narrow_svd import noise
from safetensors.torch import load_file, save_file
from torch import Tensor
from training_runs import free_port

from exvideo_core.cli import main
from exvideo_core.families.cogvideox.sequence_parallel import share_tokens
from exvideo_core.runtime.distributed import init_world

WORDS = 5
SIX_HEADS = replace(TINY.transformer, width=96, hidden=176)
ONE_BLOCK = replace(SIX_HEADS, layers=1)
# everything at once; heads in groups and rows in pieces; where a token more makes the groups smaller; the least
BUDGETS = {"whole": 2**40, "cut": 30_000, "even": 4 * 32 * (4 * 16 * 4), "least": 1}


def velocities() -> dict[str, Tensor]:
    """What one process, or all together, predict for some clips; 65 tokens, which no number of processes divides."""
    results = {}
    with init_world("cpu") as world:
        for config in (SIX_HEADS, ONE_BLOCK):
            transformer = build_transformer(config)
            if world.size > 1:
                share_tokens(transformer)
            for name, transformer.chunk_bytes in BUDGETS.items():
                for batch in (1, 2):
                    x_BCTHW, context = noise(batch, 16, 3, 8, 10), noise(batch, WORDS, config.text_dim, seed=1)
                    with torch.inference_mode():
                        result = transformer(x_BCTHW, torch.tensor([999, 20])[:batch], context)
                    results[f"{config.layers} {name} {batch}"] = result.clone()
    return results


def refusal(command: list[str]) -> dict[str, Tensor]:
    """Whether a command is refused because the processes cannot share the heads."""
    said = StringIO()
    with redirect_stderr(said):
        status = main(command)
    words = "3 processes cannot share the 2 heads of this model; start torchrun with --nproc-per-node 2."
    return {"is refused": torch.tensor(status == 2 and words in said.getvalue())}


def together(world: int, job: Callable[[], Mapping[str, Tensor]], folder: Path) -> list[dict[str, Tensor]]:
    """A job's results in each of several processes."""
    context, port = multiprocessing.get_context("forkserver"), free_port()
    processes = [
        context.Process(target=_process, args=(job, rank, world, port, folder), daemon=True) for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    return [load_file(folder / f"{rank}.safetensors") for rank in range(world)]


def _process(job: Callable[[], Mapping[str, Tensor]], rank: int, world: int, port: int, folder: Path) -> None:
    place: dict[str, Any] = {"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    torch.set_num_threads(1)
    save_file(dict(job()), folder / f"{rank}.safetensors")
