"""Arguments and results of operations, and what an operation does to memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

_ATEN = torch.ops.aten


def leaves(tree: Any) -> list[Any]:
    """All values of nested lists, tuples and dictionaries; quicker than PyTorch's, which knows more types."""
    if isinstance(tree, dict):
        return leaves(list(tree.values()))
    if not isinstance(tree, list | tuple):
        return [tree]
    return [leaf for each in tree for leaf in (leaves(each) if isinstance(each, list | tuple | dict) else (each,))]


def mapped(change: Callable[[Any], Any], tree: Any) -> Any:
    """The same nest with every value changed."""
    if isinstance(tree, list | tuple):
        return type(tree)(mapped(change, each) for each in tree)
    if isinstance(tree, dict):
        return {key: mapped(change, each) for key, each in tree.items()}
    return change(tree)


def signature(value: Any) -> Hashable:
    """Everything about arguments that a result's shape, layout and dtype depend on."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple(map(signature, value))
    return type(value), value


@functools.cache
def writes(operation: OpOverload) -> bool:
    """Whether it writes into what it is given."""
    return operation._schema.is_mutable


@functools.cache
def allocates(operation: OpOverload) -> bool:
    """Whether its results have memory of their own."""
    shares = operation._overloadpacket is _ATEN._unsafe_view
    shares = shares or any(value.alias_info for value in operation._schema.returns)
    return not shares and not writes(operation)


@functools.cache
def is_composite(operation: OpOverload) -> bool:
    """Whether it is made of others. In inference mode such operations come whole."""
    name = operation.name()
    if not name.startswith("aten::"):
        return False
    return torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")
