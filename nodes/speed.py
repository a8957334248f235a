"""Faster sampling: step reuse, which is approximate, and Triton kernels."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..exvideo_core.nn.kernels import Mode
from ..exvideo_core.nn.step_cache import Reuse
from .comfy_bridge.network import with_kernels
from .comfy_bridge.step_reuse import with_step_reuse


class ExVideoSpeed(io.ComfyNode):
    """Makes a MODEL that predicts steps with little change from earlier ones."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExVideoSpeed",
            display_name="ExVideo Speed (approximate)",
            category="ExVideo/model",
            description="Skips most of the network in steps with little change. Faster; the clip differs a little from "
            "the one with all steps.",
            search_aliases=[
                "teacache",
                "first block cache",
                "fbcache",
                "easycache",
                "step reuse",
                "speed up",
                "faster",
                "加速",
                "缓存",
            ],
            inputs=[
                io.Model.Input("model", tooltip="From Load ExVideo SVD or Load ExVideo CogVideoX, after its LoRAs."),
                io.Float.Input(
                    "threshold",
                    default=0.05,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    tooltip="Relative change, from 0 to 1, below which a step is predicted: higher is faster and less "
                    "exact. 0 is off, 0.05 is hard to see. The log says how many steps were predicted.",
                ),
                io.Int.Input(
                    "in_a_row",
                    default=2,
                    min=1,
                    max=10,
                    tooltip="Steps that may be predicted in a row. More is faster and less exact.",
                    advanced=True,
                ),
                io.Int.Input(
                    "first_steps",
                    default=2,
                    min=1,
                    max=100,
                    tooltip="Steps at the start that are always computed: they decide what moves where.",
                    advanced=True,
                ),
                io.Int.Input(
                    "last_steps",
                    default=1,
                    min=0,
                    max=100,
                    tooltip="Steps at the end that are always computed: they decide the detail.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "kernels",
                    options=["auto", "off"],
                    default="auto",
                    optional=True,
                    tooltip="Triton kernels on NVIDIA and AMD GPUs while sampling: the same clip within rounding, "
                    "faster. Each is compared with PyTorch's result before it is used. Choose off to rule them out "
                    "when something is wrong.",
                    advanced=True,
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model that predicts steps, for a sampler.")],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        threshold: float,
        in_a_row: int,
        first_steps: int,
        last_steps: int,
        kernels: Mode = "auto",
    ) -> io.NodeOutput:
        if kernels == "off":
            model = with_kernels(model, kernels)
        if threshold == 0:
            return io.NodeOutput(model)
        reuse = Reuse(threshold=threshold, in_a_row=in_a_row, first_steps=first_steps, last_steps=last_steps)
        return io.NodeOutput(with_step_reuse(model, reuse))
