"""Reading and writing LoRA files.

Letters: r rank, O outputs and I inputs of a layer; a convolution's I counts every cell of its kernel.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import CheckpointError
from ..weights.assign import AGAIN, check_finite
from ..weights.detect import require
from ..weights.safetensors_files import WeightFile, open_weights
from ..weights.write import write_weights
from .keys import Key, LoRAKeys, keys_for


@dataclass(frozen=True)
class LoRAPair:
    """The two factors of what is added to one weight: strength * scale * up @ down."""

    down: Tensor  # [r, I], or of a convolution [r, inputs, height, width]
    up: Tensor  # [O, r], or with sides of 1 behind
    alpha: float | None = None  # None is a scale of 1, as in files without it

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """alpha / rank, or 1."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def size(self) -> tuple[int, int]:
        """(O, I)."""
        return self.up.shape[0], math.prod(self.down.shape[1:])

    @property
    def num_tensors(self) -> int:
        """Tensors of the file: the two factors, and alpha."""
        return 2 + (self.alpha is not None)


@dataclass(frozen=True)
class LoRA:
    """The pairs of a LoRA."""

    pairs: Mapping[str, LoRAPair]  # by the weight, in our naming: transformer_blocks.3.attn1.to_out.0.weight
    source: str  # name of the file in messages
    unused: tuple[str, ...] = ()  # keys of the file that change nothing: scalars that belong to no pair

    @property
    def rank(self) -> int | tuple[int, ...]:
        """The rank of all pairs, or every rank there is, ascending."""
        ranks = sorted({pair.rank for pair in self.pairs.values()})
        return ranks[0] if len(ranks) == 1 else tuple(ranks)

    @property
    def num_tensors(self) -> int:
        """Tensors of the file that belong to pairs."""
        return sum(pair.num_tensors for pair in self.pairs.values())


def read_lora(path: str | Path | WeightFile) -> LoRA:
    """Read a LoRA in any spelling; the factors stay views of the mapped file.

    Raises:
        CheckpointError: the file is damaged, no LoRA of a model of ours, or not one whole LoRA: halves of pairs,
            several adapters, keys of unknown layers or of other kinds of adapters.
    """
    file = path if isinstance(path, WeightFile) else open_weights(Path(path))
    family = keys_for(file)
    keys = {key: parsed for key in file if (parsed := family.parse(key))}
    # a scalar can be a trainer's metadata, and changes no weight
    strangers = [key for key in file if key not in keys and math.prod(file.shapes[key]) > 1]
    _check_one_lora(file, family, keys, strangers)
    pairs = _pairs(file, keys)
    _check_shapes(file, pairs)
    check_finite(file.name, file)
    return LoRA(
        pairs={name: _pair(file, parts) for name, parts in pairs.items()},
        source=file.name,
        unused=tuple(key for key in file if key not in keys or keys[key].parameter not in pairs),
    )


def _check_one_lora(file: WeightFile, family: LoRAKeys, keys: Mapping[str, Key], strangers: list[str]) -> None:
    adapters = sorted({parsed.adapter for parsed in keys.values() if parsed.role != "alpha"})
    if strangers or not adapters:  # otherwise it is one, whatever names `identify` knows
        require(file.name, file.identity, family.kind, f"a LoRA of {family.title}")
    if strangers:
        raise CheckpointError(
            f"{file.name} would apply only in part: {len(keys)} of its {len(file)} tensors are known and "
            f"{len(strangers)} are not (first: {strangers[0]}); choose a LoRA of {family.title}'s transformer alone, "
            f"made of pairs named lora_A and lora_B, or lora_down and lora_up."
        )
    if len(adapters) > 1:
        names = ", ".join(adapter or "(no name)" for adapter in adapters[:3])
        raise CheckpointError(
            f"{file.name} contains {len(adapters)} adapters ({names}); save each in a file of its own, and apply them "
            f"one after the other."
        )


_Parts = dict[str, str]  # role to the key in the file


def _pairs(file: WeightFile, keys: Mapping[str, Key]) -> dict[str, _Parts]:
    """The keys of each weight's pair, by the weight."""
    parts: dict[str, _Parts] = defaultdict(dict)
    for key, parsed in keys.items():
        if previous := parts[parsed.parameter].get(parsed.role):
            raise CheckpointError(f"{file.name} has {previous} and {key}, which mean the same weight; {AGAIN}")
        parts[parsed.parameter][parsed.role] = key
    if halves := [roles for roles in parts.values() if ("down" in roles) != ("up" in roles)]:
        first = halves[0].get("down") or halves[0]["up"]
        raise CheckpointError(
            f"{file.name} is incomplete: {len(halves)} of its {len(parts)} pairs have one half only "
            f"(first: {first}); {AGAIN}"
        )
    return {name: roles for name, roles in parts.items() if "down" in roles}


def _check_shapes(file: WeightFile, pairs: Mapping[str, _Parts]) -> None:
    if wrong := [roles for roles in pairs.values() if not _multiply(file, roles)]:
        down, up = wrong[0]["down"], wrong[0]["up"]
        raise CheckpointError(
            f"{file.name} is damaged: {len(wrong)} of its {len(pairs)} pairs cannot be multiplied (first: {down} is "
            f"{list(file.shapes[down])}, {up} is {list(file.shapes[up])}); {AGAIN}"
        )
    factors = [roles[role] for roles in pairs.values() for role in ("down", "up")]
    if whole := [key for key in factors if not file.dtypes[key].is_floating_point]:
        raise CheckpointError(f"{file.name} is damaged: {whole[0]} holds whole numbers; {AGAIN}")
    numbers = [roles["alpha"] for roles in pairs.values() if "alpha" in roles]
    if several := [key for key in numbers if math.prod(file.shapes[key]) != 1]:
        raise CheckpointError(f"{file.name} is damaged: {several[0]} is no single number; {AGAIN}")


def _multiply(file: WeightFile, roles: _Parts) -> bool:
    """Whether they are [r, I...] and [O, r, 1...], with nothing empty."""
    down, up = file.shapes[roles["down"]], file.shapes[roles["up"]]
    return len(down) >= 2 and len(up) >= 2 and math.prod(up) == up[0] * down[0] and up[1] == down[0] and all(down + up)


def _pair(file: WeightFile, roles: _Parts) -> LoRAPair:
    alpha = float(file[roles["alpha"]].float()) if "alpha" in roles else None
    return LoRAPair(file[roles["down"]], file[roles["up"]], alpha)


def save_lora(path: Path, lora: LoRA) -> None:
    """Write a LoRA with the published one's names (blocks.N.attn1.to_q.lora_A.default.weight), whole or not at all.

    The scale is multiplied into the factor `up`, because DiffSynth, which reads these names, ignores an alpha.

    Args:
        lora: its factors keep their dtypes.

    Raises:
        CheckpointError: the file cannot be written.
    """
    family = keys_for(lora.pairs)
    weights: dict[str, Tensor] = {}
    for name, pair in lora.pairs.items():
        layer = family.export_name(name).removesuffix(".weight")
        weights[f"{layer}.lora_A.default.weight"] = pair.down
        # a scale of 1 keeps the bits
        weights[f"{layer}.lora_B.default.weight"] = pair.up if pair.scale == 1 else pair.up * pair.scale
    write_weights(path, weights)
