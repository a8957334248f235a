"""Entries for ComfyUI-Manager's `model-list.json`: run it to write the file of that name beside it.

Manager's list has svd_xt.safetensors and t5xxl_fp16.safetensors already.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from exvideo_core.families.cogvideox import detect as cogvideox
from exvideo_core.families.cogvideox.files import T5_XXL
from exvideo_core.families.svd import detect as svd
from exvideo_core.families.svd.files import SVD_XT
from exvideo_core.hub.catalog import files

TYPES = {
    svd.EXTENSION: "exvideo",
    cogvideox.TRANSFORMER: "diffusion_model",
    cogvideox.VAE: "VAE",
    cogvideox.LORA: "lora",
}


def entries() -> list[dict[str, str]]:
    """In the order of Manager's fields."""
    return [
        {
            "name": file.name.removesuffix(".safetensors"),
            "type": TYPES[file.kind],
            "base": "SVD" if file.kind is svd.EXTENSION else "CogVideoX",
            "save_path": file.folder,
            "description": f"{file.what}. For ComfyUI-ExVideo.",
            "reference": file.page(),
            "filename": file.name,
            "url": file.url,
            "size": f"{file.num_bytes / 1e9:.2f}GB" if file.num_bytes else "unknown",
        }
        for file in files()
        if file not in (SVD_XT, T5_XXL)
    ]


if __name__ == "__main__":
    text = json.dumps({"models": entries()}, indent=4) + "\n"
    Path(__file__).with_name("model-list.json").write_text(text, encoding="utf-8")
