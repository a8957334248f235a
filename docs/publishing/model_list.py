"""Entries for ComfyUI-Manager's `model-list.json`: run it to write the file of that name beside it.

Manager's list has svd_xt.safetensors and t5xxl_fp16.safetensors already.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from exvideo_core.hub.catalog import FILES, SVD_XT, T5_XXL
from exvideo_core.weights.detect import Kind

TYPES = {
    Kind.EXTENSION: "exvideo",
    Kind.COG_T2V: "diffusion_model",
    Kind.COG_VAE: "VAE",
    Kind.COG_LORA: "lora",
}


def entries() -> list[dict[str, str]]:
    """In the order of Manager's fields."""
    return [
        {
            "name": file.name.removesuffix(".safetensors"),
            "type": TYPES[file.kind],
            "base": "SVD" if file.kind is Kind.EXTENSION else "CogVideoX",
            "save_path": file.folder,
            "description": f"{file.what}. For ComfyUI-ExVideo.",
            "reference": file.page(),
            "filename": file.name,
            "url": file.url,
            "size": f"{file.num_bytes / 1e9:.2f}GB" if file.num_bytes else "unknown",
        }
        for file in FILES
        if file not in (SVD_XT, T5_XXL)
    ]


if __name__ == "__main__":
    text = json.dumps({"models": entries()}, indent=4) + "\n"
    Path(__file__).with_name("model-list.json").write_text(text, encoding="utf-8")
