"""Assign weights to a network, strictly; reports of what does not fit, and of NaN or Inf."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..files import quoted
from ..nn.nan_check import is_finite
from .kind import Shapes

AGAIN = "download it again, or save it again from its training."


def check_finite(source: str, weights: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError, with a count and the first name, if tensors have NaN or Inf."""
    broken = [name for name, weight in weights.items() if not is_finite(weight)]
    if broken:
        raise CheckpointError(
            f"{source} has NaN or Inf in {len(broken)} of {len(weights)} tensors (first: {broken[0]}); {AGAIN}"
        )


@contextmanager
def sized_by(source: str) -> Iterator[None]:
    """For building a network in the sizes that a file's tensors have: an error in this block is a CheckpointError."""
    try:
        yield
    except (ValueError, LookupError, ArithmeticError, TypeError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise CheckpointError(
            f"{source} has tensors in sizes that no such network has ({quoted(str(error))}). Choose another file, or "
            f"download it again if it is incomplete."
        ) from error


def assign_weights(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Put weights, without a copy, into a module that was built on the meta device; all must fit exactly.

    CheckpointError has counts and first names of what is missing, unknown or of another shape.
    """
    wanted, model = module.state_dict(), type(module).__name__
    known = {name: weight for name, weight in weights.items() if name in wanted}
    integers = [n for n, weight in known.items() if wanted[n].is_floating_point() and not weight.is_floating_point()]
    if integers:
        raise CheckpointError(
            f"{source} does not fit {model}: {len(integers)} weights are integers (first: {integers[0]}). Choose the "
            f"fp16, bf16, fp32 or fp8 version of it."
        )
    differing = different(shapes_of(wanted), shapes_of(known))
    # a host's layers may have no weights yet: only loading tells what is missing
    missing, unknown = ([], []) if differing else module.load_state_dict(weights, strict=False, assign=True)
    if missing or unknown or differing:
        raise CheckpointError(
            f"{source} does not fit {model}: {misfit(missing, unknown, differing)}. Choose a file for this model, or "
            f"download it again if it is incomplete."
        )


Differing = Mapping[str, tuple[Sequence[int], Sequence[int]]]  # the shape that is there and the one that is needed


def different(wanted: Shapes, found: Shapes) -> Differing:
    """The tensors that both have in different shapes."""
    return {name: (shape, wanted[name]) for name, shape in found.items() if shape != wanted.get(name, shape)}


def misfit(
    missing: Sequence[str], unknown: Sequence[str], differing: Differing, called: Callable[[str], str] = str
) -> str:
    """How tensors differ from those wanted, with counts and first names, for a sentence; `called` names them."""
    complaints = []
    if missing:
        complaints.append(f"{len(missing)} tensors are missing (first: {called(missing[0])})")
    if unknown:
        complaints.append(f"{len(unknown)} are unknown (first: {called(unknown[0])})")
    if differing:
        name, (found, wanted) = next(iter(differing.items()))
        shapes = f"is {list(found)}, {list(wanted)} is needed"
        complaints.append(f"{len(differing)} have another shape (first: {called(name)} {shapes})")
    return ", ".join(complaints)


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes of tensors by name."""
    return {name: tuple(weight.shape) for name, weight in weights.items()}
