"""Records `weight_names.json.gz`: names and shapes of the published files, and maps between their names.

`files` has name and shape of every tensor, `maps` diffusers' names to sgm names, `hashes` DiffSynth's md5 fingerprints.
Run by hand with the folder of manifests (provenance of each is written there): python weight_names.py MANIFESTS
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("weight_names.json.gz")
FILES = (
    "svd_xt",
    "exvideo_svd_128f",
    "svd_xt_unet_diffusers",
    "svd_xt_vae_diffusers",
    "svd_xt_image_encoder_diffusers",
    "cogvideox_2b_transformer",
    "cogvideox_5b_transformer",
    "cogvideox_5b_i2v_transformer",
    "cogvideox_1_5_5b_t2v_transformer",
    "cogvideox_5b_text_encoder",
    "cogvideox_vae",
    "exvideo_cogvideox_lora_129f",
)


def record(manifests: Path) -> None:
    """Write the record from the manifests."""

    def read(name: str) -> dict[str, Any]:
        contents: dict[str, Any] = json.loads((manifests / f"{name}.json").read_text())
        return contents

    def shape(sizes: list[int | str]) -> list[int | str]:
        return [16 if size == "r" else size for size in sizes]  # a LoRA's unknown rank

    names = {name: {key: shape(entry[0]) for key, entry in read(name)["tensors"].items()} for name in FILES}
    maps = {part: read(f"svd_xt_{part}_key_map")["diffusers_to_sgm"] for part in ("unet", "vae")}
    hashes = {name: read(name)["keys_md5_with_shape"] for name in ("svd_xt", "exvideo_svd_128f", "cogvideox_vae")}
    text = json.dumps({"files": names, "maps": maps, "hashes": hashes}, separators=(",", ":"))
    RECORD.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    record(Path(sys.argv[1]))
