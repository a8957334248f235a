"""Put a file's tensors into a network, strictly, and refuse values that are NaN or Inf."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..files import quoted
from ..nn.nan_check import is_finite

AGAIN = "download it again, or save it again from its training."


def check_finite(source: str, weights: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError, with a count and the first name, if tensors have NaN or infinity."""
    broken = [name for name, weight in weights.items() if not is_finite(weight)]
    if broken:
        raise CheckpointError(
            f"{source} has values that are not numbers (NaN or infinity) in {len(broken)} of {len(weights)} tensors "
            f"(first: {broken[0]}); {AGAIN}"
        )


@contextmanager
def sized_by(source: str) -> Iterator[None]:
    """For building a network in the sizes that a file's tensors tell: what fails in this block is the file's fault.

    Raises:
        CheckpointError: no network has such sizes.
    """
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
    """Put the weights themselves, uncopied, into a module that was built on the meta device; all must fit exactly.

    Raises:
        CheckpointError: with counts and first names of what is missing, unknown or of another shape.
    """
    wanted = module.state_dict()
    known = {name: tensor for name, tensor in weights.items() if name in wanted}
    if differing := [name for name, tensor in known.items() if wanted[name].shape != tensor.shape]:
        name = differing[0]
        raise CheckpointError(
            f"{source} does not fit {type(module).__name__}: {len(differing)} weights have another shape "
            f"(first: {name} is {list(weights[name].shape)}, {list(wanted[name].shape)} is needed). "
            f"Choose a file for this model."
        )
    if whole := [n for n, tensor in known.items() if wanted[n].is_floating_point() and not tensor.is_floating_point()]:
        raise CheckpointError(
            f"{source} does not fit {type(module).__name__}: {len(whole)} weights are whole numbers "
            f"(first: {whole[0]}). Choose the fp16, bf16, fp32 or fp8 version of it."
        )
    missing, unexpected = module.load_state_dict(weights, strict=False, assign=True)
    if missing or unexpected:
        raise CheckpointError(
            f"{source} does not fit {type(module).__name__}: "
            f"{len(missing)} weights missing (first: {missing[:1]}), "
            f"{len(unexpected)} unknown (first: {unexpected[:1]}). "
            f"Choose a file for this model, or download it again if it is incomplete."
        )


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """By name, for `from_shapes`."""
    return {name: tuple(weight.shape) for name, weight in weights.items()}
