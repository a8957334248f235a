"""The toy in ComfyUI: its network as MODEL, its loader, and its adapter for the shared nodes.

ComfyUI imports the pack under a name of its own, so `adapter_for` makes all of it for an imported pack.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import torch

from .network import METHODS, ToyConfig, ToyNetwork, read_toy
from .pipeline import ESTIMATES

FPS = 8


def adapter_for(pack: SimpleNamespace) -> Any:
    """The toy's `Adapter`."""
    bridge = pack.comfy_bridge
    files = bridge.file_lists.FileList(folder="diffusion_models")
    methods = {bridge.sampling.AUTO: METHODS["flow"], "flow 2m": METHODS["flow_2m"]}

    def plan(model: Any, _latents: torch.Tensor, settings: Any) -> Any:
        method = bridge.sampling.method_named(settings.method, methods, "the toy")
        levels = method.schedule(settings.steps, settings.denoise)
        return bridge.sampling.Plan(model.clone(), 1.0, bridge.sampling.SOLVERS[method.order], levels)

    model_class = _model_class(bridge)
    return bridge.adapter.Adapter(
        title="Toy",
        loader="Load Toy",
        models=(model_class,),
        methods=methods,
        plan=plan,
        finish=lambda _model: bridge.sampling.Finish(),
        latent_fps=lambda _latents, _positive: FPS,
        files=(files,),
        nodes=(_loader(bridge, files, model_class),),
    )


def _model_class(bridge: SimpleNamespace) -> Any:
    from comfy import conds, latent_formats, model_base

    class HostedToy(bridge.network.HostedNetwork, ToyNetwork):  # type: ignore[misc,name-defined]
        title = "the toy"

        def forward_pass(self, x: Any, timesteps: Any, _context: Any, _y: Any, _options: Any, **_others: Any) -> Any:
            return partial(ToyNetwork.forward, self, x, timesteps), {"the noise": x}

    class ToyLatents(latent_formats.LatentFormat):
        latent_channels = 3

        def __init__(self) -> None:
            self.latent_rgb_factors = torch.eye(3).tolist()

    class ToyModelConfig(bridge.model.HostedModelConfig):  # type: ignore[misc,name-defined]
        sampling_settings: ClassVar = {"shift": 1.0, "multiplier": 1.0}
        latent_format = ToyLatents
        supported_inference_dtypes: ClassVar = [torch.float32]

    class ToyModel(bridge.model.HostedModel):  # type: ignore[misc,name-defined]
        config_class, sizes_class, network_class = ToyModelConfig, ToyConfig, HostedToy
        prediction = model_base.ModelType.FLOW
        estimates = ESTIMATES

        def extra_conds(self, **conditions: Any) -> dict[str, Any]:
            return {"c_crossattn": conds.CONDCrossAttn(conditions["cross_attn"])}

        def count_call(self, shape: Any, _options: Any = None) -> Any:
            return ESTIMATES.call(self.sizes, (shape[0], *shape[-2:]), self.get_dtype_inference())

    return ToyModel


def _loader(bridge: SimpleNamespace, files: Any, model_class: Any) -> Any:
    from comfy_api.latest import io

    class ToyLoader(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(
                node_id=cls.__name__,  # no literal: ComfyUI-Manager's scanner would count it as a node of this pack
                display_name="Load Toy",
                inputs=[files.combo("weights", "The toy's file.")],
                outputs=[io.Model.Output()],
            )

        @classmethod
        def execute(cls, weights: str) -> io.NodeOutput:
            path = files.find(weights)
            model = bridge.loading.make_model(model_class, read_toy(path), path.name)
            bridge.loading.log_estimate(model)
            return io.NodeOutput(model)

    return ToyLoader
