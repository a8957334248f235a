"""The two branches of guidance: one after the other on one device, or each on its own at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Protocol, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..nn.out_of_memory import Chunked, restore_chunk_bytes, retry_with_smaller_chunks
from .weight_streaming import WeightStream

N = TypeVar("N", bound=nn.Module)
Given = Sequence[Any]  # tensors, and what else a prediction needs
Predict = Callable[..., Tensor]  # of a network and what is given


class Branches(Protocol):
    """A network, ready to predict for both branches.

    Attributes:
        network: of the positive branch.
        devices: of the positive and of the negative branch.
    """

    network: Any
    devices: tuple[torch.device, torch.device]

    def one(self, predict: Predict, positive: Given) -> Tensor:
        """The same for a step without guidance."""

    def both(self, predict: Predict, positive: Given, negative: Given) -> tuple[Tensor, Tensor]:
        """predict(network, *given) of what each branch is given; both results on the first device."""


class SequentialBranches:
    """Both branches by one network."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.network, self.devices = network, (device, device)

    def one(self, predict: Predict, positive: Given) -> Tensor:
        return _tried(predict, self.network, positive)

    def both(self, predict: Predict, positive: Given, negative: Given) -> tuple[Tensor, Tensor]:
        return self.one(predict, positive), self.one(predict, negative)


class ParallelBranches:
    """The positive branch in the calling thread, the negative one by a twin network in a thread of its own."""

    def __init__(
        self,
        networks: tuple[nn.Module, nn.Module],
        devices: tuple[torch.device, torch.device],
        pool: ThreadPoolExecutor,
    ) -> None:
        self.network, self.twin = networks
        self.devices, self.pool = devices, pool

    def one(self, predict: Predict, positive: Given) -> Tensor:
        return _tried(predict, self.network, positive)

    def both(self, predict: Predict, positive: Given, negative: Given) -> tuple[Tensor, Tensor]:
        there = self.devices[1]
        # copied by this thread and before it goes on: a copy stands in line with what its devices were told to do
        moved = [each.to(there) if isinstance(each, Tensor) else each for each in negative]
        pending = self.pool.submit(_run, predict, self.twin, moved, there, torch.is_inference_mode_enabled())
        here = self.one(predict, positive)
        return here, pending.result().to(here.device)


def _run(predict: Predict, network: nn.Module, given: Given, device: torch.device, is_inference: bool) -> Tensor:
    # both settings are each thread's own
    with torch.inference_mode(is_inference), _current(device):
        return _tried(predict, network, given)


def _tried(predict: Predict, network: nn.Module, given: Given) -> Tensor:
    """A prediction, in smaller pieces from where memory ends on."""
    if dist.is_available() and dist.is_initialized():  # those who compute together would no longer be in step
        return predict(network, *given)
    return retry_with_smaller_chunks(cast(Chunked, network), lambda: predict(network, *given))


def _current(device: torch.device) -> AbstractContextManager[object]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def branches(network: nn.Module, devices: Sequence[torch.device], stream: WeightStream | None) -> Iterator[Branches]:
    """A network on one device or two for the length of a clip. LoRAs that were merged before are on both.

    At the end, also by an error or an interruption, no branch computes any more and the second device is empty again.

    Args:
        network: on the first device; of what streams, in main memory.
        devices: one, or two.
        stream: where its blocks come from; None where it is all on its device.
    """
    first, last = devices[0], devices[-1]
    with ExitStack() as stack:
        stack.enter_context(restore_chunk_bytes(cast(Chunked, network)))
        if stream:
            stream.pack(network)
        networks = [network, *([twin(network, first, last)] if len(devices) > 1 else [])]
        if stream:
            for each, device in zip(networks, devices, strict=True):
                stack.enter_context(stream.running(each, device))
        if len(networks) == 1:
            yield SequentialBranches(network, first)
        else:
            # entered last, so that it is left first: its thread has ended before a network is taken down
            pool = stack.enter_context(ThreadPoolExecutor(1, "guidance"))
            yield ParallelBranches((network, networks[1]), (first, last), pool)


def twin(network: N, source: torch.device, target: torch.device) -> N:
    """The same network with its weights on another device; those that are not on `source` are shared."""
    # hooks and the like in dictionaries of its own
    other = network.__new__(type(network))
    own = {name: value.copy() if isinstance(value, dict) else value for name, value in vars(network).items()}
    own["_parameters"] = {name: _placed(weight, source, target) for name, weight in network._parameters.items()}
    own["_buffers"] = {name: _placed(weight, source, target) for name, weight in network._buffers.items()}
    own["_modules"] = {name: child and twin(child, source, target) for name, child in network._modules.items()}
    vars(other).update(own)
    return other


@torch.inference_mode(False)  # PyTorch chooses kernels, and so rounding, by whether a weight may have gradients
def _placed(weight: Tensor | None, source: torch.device, target: torch.device) -> Tensor | None:
    if weight is None:
        return None
    moved = weight.data.to(target) if weight.device == source else weight.data
    return nn.Parameter(moved, weight.requires_grad) if isinstance(weight, nn.Parameter) else moved
