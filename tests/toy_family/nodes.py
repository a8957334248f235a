"""The toy in ComfyUI: its network as a MODEL, a loader, and the adapter that the shared nodes ask.

A pack derives these classes inside its own package; here they are made from the pack that a test has imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar

import comfy.latent_formats
import torch
from comfy import model_base
from comfy_api.latest import io
from torch import Tensor

from .network import GEOMETRY, METHODS, ToyConfig, ToyNetwork, read_toy
from .pipeline import ESTIMATES, count_call


def adapter_for(pack: Any) -> Any:
    """The toy's `Adapter` among the classes of an imported pack."""
    bridge = pack.comfy_bridge

    class ToyLatents(comfy.latent_formats.LatentFormat):
        """Pixels in [-1, 1] are the latents."""

        scale_factor = 1.0
        latent_channels = 3
        latent_rgb_factors = torch.eye(3).tolist()

    class HostedToy(bridge.network.HostedNetwork, ToyNetwork):
        title = "Toy"

        def forward_pass(
            self, x: Tensor, timesteps: Tensor, *_conditions: Any, **_others: Any
        ) -> tuple[Any, Mapping[str, Tensor]]:
            return partial(ToyNetwork.forward, self, x, timesteps), {"the noise": x}

    class ToyModelConfig(bridge.model.HostedModelConfig):
        sampling_settings: ClassVar = {"shift": 1.0, "multiplier": 1.0}
        latent_format = ToyLatents
        supported_inference_dtypes: ClassVar = [torch.float32]

    class ToyModel(bridge.model.HostedModel):
        config_class, sizes_class, network_class = ToyModelConfig, ToyConfig, HostedToy
        estimates, prediction = ESTIMATES, model_base.ModelType.FLOW

        def extra_conds(self, **_conditions: Any) -> dict[str, Any]:
            return {}

        def count_call(self, shape: Sequence[int], _options: Any = MappingProxyType({})) -> Any:
            return count_call(self.sizes, (shape[0], *shape[-2:]), torch.float32)

    def plan(model: Any, latents: Tensor, settings: Any) -> Any:
        GEOMETRY.check_size(latents.shape[-1], latents.shape[-2])
        method = bridge.sampling.method_named(settings.method, methods, "Toy")
        levels = method.schedule(settings.steps, settings.denoise)
        return bridge.sampling.Plan(model.clone(), 1.0, bridge.sampling.SOLVERS[method.order], levels)

    class ToyLoader(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(
                node_id="ToyLoader",
                display_name="Load Toy",
                category="toy",
                inputs=[io.String.Input("path")],
                outputs=[io.Model.Output(), io.Conditioning.Output(), io.Latent.Output()],
            )

        @classmethod
        def execute(cls, path: str) -> io.NodeOutput:
            model = bridge.loading.make_model(ToyModel, read_toy(Path(path)), Path(path).name, torch.float32)
            return io.NodeOutput(model, [[torch.zeros(1, 1, 1), {}]], {"samples": torch.zeros(6, 3, 16, 24)})

    methods = {bridge.sampling.AUTO: METHODS["flow"]}
    return bridge.adapter.Adapter(
        title="Toy",
        loader="Load Toy",
        models=(ToyModel,),
        methods=methods,
        plan=plan,
        finish=lambda _model: bridge.sampling.Finish(),
        latent_fps=lambda _latents, _positive: 8.0,
        files=(),
        nodes=(ToyLoader,),
    )


def node(pack: Any, adapter: Any) -> SimpleNamespace:
    """The sampler and the loader, as ComfyUI runs them for node 7."""
    hidden = SimpleNamespace(unique_id="7", prompt=None, extra_pnginfo=None)
    sampler = type("Sampler", (pack.sampler.ExVideoSampler,), {"hidden": hidden})
    return SimpleNamespace(sampler=sampler, loader=adapter.nodes[0])
