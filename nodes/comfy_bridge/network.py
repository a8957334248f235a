"""A core network behind the call that ComfyUI makes of a diffusion model.

Shapes: B batch, N heads, L tokens, D channels of a head.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from comfy import patcher_extension
from comfy.ldm.modules.attention import optimized_attention
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...exvideo_core.errors import ExVideoError
from ...exvideo_core.nn.kernels import Mode, kernel_mode
from . import compat, nan_check
from .step_reuse import ReusesSteps

Options = Mapping[str, Any]  # ComfyUI's `transformer_options`
ForwardPass = Callable[..., Tensor]  # takes the step cache of one branch as `memory`

_KERNELS = "exvideo_kernels"  # in `transformer_options`: whether Triton kernels are used

# `transformer_options` of the forward pass that runs. One per thread: ComfyUI has a thread for each GPU.
_running = threading.local()


@contextmanager
def running_with(options: Options) -> Iterator[None]:
    """Pass these options to every attention call of this thread."""
    _running.options = options
    try:
        yield
    finally:
        _running.options = {}  # they hold references to tensors


def with_kernels(model: ModelPatcher, mode: Mode) -> ModelPatcher:
    """A clone that computes with the core's Triton kernels where there are some, or without."""
    clone = model.clone()
    clone.model_options["transformer_options"][_KERNELS] = mode
    return clone


class HostAttention:
    """The attention function that ComfyUI was started with, in the core's signature; nodes may override it.

    Args:
        precision: lowest dtype of the scores, for backends that have the choice; None is that of the queries.
    """

    def __init__(self, precision: torch.dtype | None = None) -> None:
        self.precision = precision

    def __call__(self, q_BNLD: Tensor, k_BNLD: Tensor, v_BNLD: Tensor) -> Tensor:
        heads, dim = q_BNLD.shape[1], v_BNLD.shape[-1]
        # not with skip_output_reshape: large batches are split (SDP_BATCH_LIMIT), and that path ignores it
        out_BLC = optimized_attention(
            q_BNLD,
            k_BNLD,
            v_BNLD,
            heads,
            attn_precision=self.precision,
            skip_reshape=True,
            transformer_options=getattr(_running, "options", {}),
        )
        return out_BLC.unflatten(-1, (heads, dim)).transpose(1, 2)


class HostedNetwork(ReusesSteps):
    """Mixin that makes a core network ComfyUI's `diffusion_model`; its weights keep the names of the published file.

    A family's class derives from this and from the core's network, in that order, and defines `forward_pass`.

    Attributes:
        title: name of the model in errors.
        attention_precision: see `HostAttention`.
        chunk_bytes: of the core's network: budget for the temporary tensors of one chunk.
    """

    title: str
    attention_precision: torch.dtype | None = None
    chunk_bytes: int

    def __init__(self, *, sizes: Any, dtype: torch.dtype, device: Any, operations: Any, **settings: Any) -> None:
        layers = compat.layers(operations, dtype, settings["compute_dtype"], device)
        super().__init__(sizes, layers, HostAttention(self.attention_precision))  # type: ignore[call-arg]  # the core's
        self.dtype = dtype

    @abstractmethod
    def forward_pass(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None,
        y: Tensor | None,
        options: Options,
        **conditions: Any,
    ) -> tuple[ForwardPass, Mapping[str, Tensor]]:
        """The forward pass, ready to be called, and its inputs by the names that NaN errors give them."""

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        control: Any = None,
        transformer_options: Options | None = None,
        **conditions: Any,
    ) -> Tensor:
        """Run the network inside the wrappers that other nodes have added: caching, compilation and the like.

        The arguments are those of ComfyUI's own UNet.
        """
        options = {} if transformer_options is None else transformer_options
        wrappers = patcher_extension.get_all_wrappers(patcher_extension.WrappersMP.DIFFUSION_MODEL, options)
        executor = patcher_extension.WrapperExecutor.new_class_executor(self._run, self, wrappers)
        result: Tensor = executor.execute(x, timesteps, context, y, control, options, **conditions)
        return result

    def _run(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        control: Any = None,
        transformer_options: Options | None = None,
        **conditions: Any,
    ) -> Tensor:
        if control is not None:
            raise ExVideoError(f"ControlNet does not work with {self.title}. Remove it from this model's conditioning.")
        options = transformer_options or {}
        compute, inputs = self.forward_pass(x, timesteps, context, y, options, **conditions)
        with running_with(options), kernel_mode(options.get(_KERNELS, "auto")):
            return nan_check.computed(self, options, compute, inputs)
