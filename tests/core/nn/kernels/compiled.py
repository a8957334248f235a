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

from exvideo_core.nn.kernels import added_residual, channel_statistics, gated_gelu, group_scale, scaled_silu

# compute capability, and a dtype: all of both would take a minute
TARGETS = [*((capability, "fp16") for capability in (75, 80, 86, 89, 90, 120)), (90, "bf16"), (90, "fp32")]
NUMBERS = dict.fromkeys(("L", "C", "K", "P", "G", "block", "step", "other_step"), "i32") | {"eps": "fp32"}
ALIGNED = ("C", "step", "other_step")  # multiples of 16 in published models
WIDE = ("factor", "summand", "mean", "means", "variance", "squares")  # float32; the others are what the network is in


def sources(dtype: str) -> list[tuple[str, ASTSource]]:
    """Every kernel with its constants, for tensors of a dtype."""
    tiles = {
        channel_statistics._blocks: {"ROWS": channel_statistics._ROWS, "COLS": channel_statistics._COLUMNS},
        channel_statistics._items: {"COLS": channel_statistics._COLUMNS},
        scaled_silu._scaled_silu: {"ROWS": scaled_silu._ROWS, "COLS": scaled_silu._COLUMNS},
        gated_gelu._gated_gelu: {"COLS": gated_gelu._COLUMNS},
        added_residual._added_residual: {"ROWS": added_residual._ROWS, "COLS": added_residual._COLUMNS},
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


def main() -> int:
    for capability, dtype in TARGETS:
        for name, source in sources(dtype):
            made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
            line = {"kernel": name, "capability": capability, "dtype": dtype, "is_wide": "v4.b32" in made.asm["ptx"]}
            print(json.dumps(line | resources(made.asm["cubin"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
