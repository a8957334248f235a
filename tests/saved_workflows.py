"""Workflows as each release gave them to people, one folder for each, made by `record_release.py` and never edited."""

import shutil
from pathlib import Path

from in_comfyui import save_cogvideox_files, save_narrow_files, save_random_lora, split
from PIL import Image

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
    """Narrow files under the names that the saved workflows have, and their pictures."""
    (base / "narrow").mkdir(exist_ok=True)
    checkpoint, extension = save_narrow_files(base / "narrow")
    transformer, text_encoder, vae = save_cogvideox_files(base / "narrow")
    lora = save_random_lora(base / "narrow" / "lora.safetensors")
    narrow = {"checkpoints": checkpoint, "exvideo": extension, "diffusion_models": transformer}
    narrow |= {"text_encoders": text_encoder, "vae": vae, "loras": lora}
    picture = Image.linear_gradient("L").convert("RGB").resize((160, 140))
    for node in (node for path in paths for node in read_graph(path)["nodes"]):
        if node["type"] == "LoadImage":
            picture.save(base / "input" / node["widgets_values"][0])
        for folder, name in zip(_FOLDERS.get(node["type"], ()), node.get("widgets_values", ()), strict=False):
            there = base / "models" / folder / name
            if not there.exists() and not name.startswith("demo"):
                there.parent.mkdir(parents=True, exist_ok=True)
                (split if "00001-of-00002" in name else shutil.copy)(narrow[folder], there)
