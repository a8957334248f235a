"""Compiles every kernel for GPUs, which needs none, and prints its registers and spills as JSON lines."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from exvideo_core.nn.kernels import (
    added_residual,
    channel_statistics,
    gated_gelu,
    gated_product,
    group_scale,
    latent_scaled,
    layer_norm,
    norm_rope,
    scaled,
)

# compute capability, and a dtype: all of both would take a minute
TARGETS = [*((capability, "fp16") for capability in (75, 80, 86, 89, 90, 120)), (90, "bf16"), (90, "fp32")]
STEPS = tuple(f"{of}step" for of in ("", "other_", "bias_", "first_", "second_", "third_", "batch_", "part_"))
CELLS = ("W", "w", "down", "across", "cells", "repeats", "lead")
NUMBERS = dict.fromkeys((*STEPS, "L", "B", "C", "K", "N", "P", "G", "R", "H", "block", "split", *CELLS), "i32") | {
    "eps": "fp32"
}
ALIGNED = ("C", "H", *STEPS)  # multiples of 16 in published models
WIDE = (
    "factor",
    "factors",
    "summand",
    "mean",
    "means",
    "variance",
    "squares",
)  # float32; the others are what the network is in


def sources(dtype: str) -> list[tuple[str, ASTSource]]:
    """Every kernel but the product with its constants, for tensors of a dtype."""
    tiles = {
        channel_statistics._blocks: {"ROWS": channel_statistics._ROWS, "COLS": channel_statistics._COLUMNS},
        channel_statistics._items: {"COLS": channel_statistics._COLUMNS},
        scaled._scaled: {"SILU": True, "ROWS": scaled._ROWS, "COLS": scaled._COLUMNS},
        gated_gelu._gated_gelu: {"COLS": gated_gelu._COLUMNS},
        added_residual._added_residual: {"COUNT": 3, "ROWS": added_residual._ROWS, "COLS": added_residual._COLUMNS},
        latent_scaled._latent_scaled: {"ROWS": latent_scaled._ROWS, "COLS": latent_scaled._COLUMNS},
        layer_norm._layer_norm: {"SHIFTED": True, "ROWS": 1, "COLS": layer_norm._TILE},
        norm_rope._norm_rope: {"ROWS": norm_rope._ROWS, "D": 64},
        group_scale._group_scale: {"PARTS": group_scale._PARTS, "COLS": 64},
    }
    return [(kernel.fn.__name__, _source(kernel, constants, dtype)) for kernel, constants in tiles.items()]


def _source(kernel, constants: dict[str, int], dtype: str) -> ASTSource:
    kinds = {
        name: "constexpr" if name in constants else NUMBERS.get(name) or ("*fp32" if name in WIDE else f"*{dtype}")
        for name in kernel.arg_names
    }
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, (name, kind) in enumerate(kinds.items())
        if kind[0] == "*" or name in ALIGNED
    }
    return ASTSource(kernel, kinds, constexprs=constants, attrs=aligned)


def resources(cubin: bytes) -> dict[str, int]:
    """What ptxas gave the kernel: registers, and bytes of stack and local memory, where spills go."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "kernel.cubin")
        file.write_bytes(cubin)
        listed = subprocess.run([tool, "--dump-resource-usage", file], check=True, capture_output=True, text=True)
    return {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", listed.stdout)}


def product(capability: int, dtype: str) -> tuple[ASTSource, dict[str, int]]:
    """The product with the tiles of an architecture."""
    height, width, depth, warps, stages = gated_product.tiles(divmod(capability, 10))
    constants = {"ROWS": height, "COLS": width, "DEPTH": depth, "BANDS": gated_product._BANDS}
    return _source(gated_product._gated_product, constants, dtype), {"num_warps": warps, "num_stages": stages}


def report(name: str, capability: int, dtype: str, source: ASTSource, **options: int) -> None:
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    line = {"kernel": name, "capability": capability, "dtype": dtype, "is_wide": "v4.b32" in made.asm["ptx"]}
    print(json.dumps(line | {"shared": made.metadata.shared} | resources(made.asm["cubin"])))


def main() -> int:
    for capability, dtype in TARGETS:
        for name, source in sources(dtype):
            report(name, capability, dtype, source)
        if dtype != "fp32" and capability >= 80:
            source, options = product(capability, dtype)
            report("_gated_product", capability, dtype, source, **options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
