"""A pack that says ExVideo's sampler once had another id, output and names of inputs: what a rename will look like."""

import importlib.util
from pathlib import Path

from comfy_api.latest import ComfyExtension, io

REPLACEMENTS = Path(__file__).resolve().parents[2] / "nodes" / "replacements.py"
KEPT = ("guidance_min", "guidance_max", "denoise", "normalize", "contrast")
RENAMED = {"network": "model", "noise_seed": "seed", "count": "steps"}
WIDGETS = ["noise_seed", "control_after_generate", "count", *KEPT]
INPUTS = {**RENAMED, **{name: name for name in ("positive", "negative", "latent", *KEPT)}}


class RenamingPack(ComfyExtension):
    async def on_load(self):
        specification = importlib.util.spec_from_file_location("exvideo_replacements", REPLACEMENTS)
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        entry = io.NodeReplace(
            new_node_id="ExVideoSampler",
            old_node_id="ExVideoOldSampler",
            old_widget_ids=WIDGETS,
            input_mapping=[{"new_id": new, "old_id": old} for old, new in INPUTS.items()],
            output_mapping=[{"new_idx": 0, "old_idx": 0}],
        )
        await module.register([entry])

    async def get_node_list(self):
        return []


async def comfy_entrypoint():
    return RenamingPack()
