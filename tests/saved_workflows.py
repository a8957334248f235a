"""Workflows as each release gave them to people, one folder for each, made by `record_release.py` and never edited."""

import shutil
from pathlib import Path

from in_comfyui import STOCK, place_inputs, save_cogvideox_files, save_narrow_files, save_random_lora, split

from host.graph import read_graph

RELEASES = Path(__file__).with_name("workflows")
PROMPT = ".prompt.json"  # what that release made of the graph
SAVED = sorted(path for path in RELEASES.glob("*/*.json") if not path.name.endswith(PROMPT))
FIRST = RELEASES / "0.1.0" / "exvideo_svd_128f.json"

# Which folders of models the first values of a saved loader are names in.
_FOLDERS = {
    "ExVideoSVDLoader": ("checkpoints", "exvideo"),
    "ExVideoCogVideoXLoader": ("diffusion_models", "text_encoders", "vae"),
    "ExVideoLoRAApply": ("loras",),
}


def place_files(base, paths):
    """Narrow files under the names that the saved workflows have, and their pictures and videos."""
    (base / "narrow").mkdir(exist_ok=True)
    checkpoint, extension = save_narrow_files(base / "narrow")
    transformer, text_encoder, vae = save_cogvideox_files(base / "narrow")
    lora = save_random_lora(base / "narrow" / "lora.safetensors")
    narrow = {"checkpoints": checkpoint, "exvideo": extension, "diffusion_models": transformer}
    narrow |= {"text_encoders": text_encoder, "vae": vae, "loras": lora}
    nodes = [node for path in paths for node in read_graph(path)["nodes"]]
    place_inputs(base / "input", nodes)
    for node in nodes:
        for model in node["properties"].get("models", []) if node["type"] in STOCK else []:
            there = base / "models" / model["directory"] / model["name"]
            there.parent.mkdir(parents=True, exist_ok=True)
            STOCK[node["type"]](there)
        for folder, name in zip(_FOLDERS.get(node["type"], ()), node.get("widgets_values", ()), strict=False):
            there = base / "models" / folder / name
            if not name.startswith("demo"):  # over what another test has left there
                there.parent.mkdir(parents=True, exist_ok=True)
                (split if "00001-of-00002" in name else shutil.copy)(narrow[folder], there)
