"""The cond and uncond branches of guidance: one after the other on one device, or in parallel on two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import copy_context
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..nn.out_of_memory import Chunked, restore_chunk_bytes, retry_with_smaller_chunks
from .weight_streaming import WeightStream

N = TypeVar("N", bound=nn.Module)
Inputs = Sequence[Any]  # tensors, and other inputs of a prediction
Predict = Callable[..., Tensor]  # (network, *inputs) -> prediction


class Branches:
    """A network, ready to predict both branches.

    Attributes:
        network: of the cond branch.
        twin: the network of the uncond branch, which a second thread runs; None if one network does both in turn.
        devices: of the cond and of the uncond branch.
    """

    def __init__(self, networks: Sequence[Any], devices: Sequence[torch.device], pool: ThreadPoolExecutor) -> None:
        self.network, self.twin = networks[0], networks[1] if len(networks) > 1 else None
        self.devices, self.pool = (devices[0], devices[-1]), pool

    def one(self, predict: Predict, cond: Inputs) -> Tensor:
        """Predict the cond branch alone, for a step without guidance."""
        return _with_retries(predict, self.network, cond)

    def both(self, predict: Predict, cond: Inputs, uncond: Inputs) -> tuple[Tensor, Tensor]:
        """Predict both branches; the results are on the first device."""
        if self.twin is None:
            return self.one(predict, cond), self.one(predict, uncond)
        there = self.devices[1]
        # copied by this thread, so that the copy is queued after the work that its devices already have
        moved = [each.to(there) if isinstance(each, Tensor) else each for each in uncond]
        is_inference = torch.is_inference_mode_enabled()
        pending = self.pool.submit(copy_context().run, _run, predict, self.twin, moved, there, is_inference)
        here = self.one(predict, cond)
        return here, pending.result().to(here.device)


def _run(predict: Predict, network: nn.Module, inputs: Inputs, device: torch.device, is_inference: bool) -> Tensor:
    # inference mode and the current device are per thread
    with torch.inference_mode(is_inference), torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        return _with_retries(predict, network, inputs)


def _with_retries(predict: Predict, network: nn.Module, inputs: Inputs) -> Tensor:
    """Predict, and retry with smaller chunks if out of memory."""
    if dist.is_available() and dist.is_initialized():  # processes that retry on their own would lose step
        return predict(network, *inputs)
    return retry_with_smaller_chunks(cast(Chunked, network), lambda: predict(network, *inputs))


@contextmanager
def branches(network: nn.Module, devices: Sequence[torch.device], stream: WeightStream | None) -> Iterator[Branches]:
    """Prepare a network for both branches on one device or two. LoRAs that were merged before are on both.

    Afterwards, also after an error or an interruption, no branch computes and the second device is empty again.

    Args:
        network: on the first device; blocks that are streamed are in main memory.
        devices: one, or two.
        stream: where its blocks come from; None if it is all on its device.
    """
    with ExitStack() as stack:
        stack.enter_context(restore_chunk_bytes(cast(Chunked, network)))
        if stream:
            stream.pack(network)
        networks = [network, *(twin(network, devices[0], device) for device in devices[1:])]
        if stream:
            for each, device in zip(networks, devices, strict=True):
                stack.enter_context(stream.running(each, device))
        # entered last, so that it is left first: the thread ends before a network is removed
        yield Branches(networks, devices, stack.enter_context(ThreadPoolExecutor(1, "guidance")))


def twin(network: N, source: torch.device, target: torch.device) -> N:
    """Copy a network to another device; weights that are not on `source` are shared."""
    # it has its own dictionaries, for hooks and the like
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
