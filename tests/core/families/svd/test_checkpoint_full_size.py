"""The real files' sizes and names: 4.8 GB and 1.7 GB of random numbers, loaded and run in bounded memory."""

from __future__ import annotations

import gzip
import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[4]
GOLDEN = ROOT / "tests" / "golden" / "weight_names.json.gz"
LIMIT_GB = 9.0


def write_random(path: Path, shapes: dict[str, list[int]]) -> None:
    """A float16 file of these tensors; one pool of small random numbers is repeated through all of it."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pool = (torch.randn(1 << 24, generator=torch.manual_seed(0)) * 0.02).half().numpy().tobytes()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, end, len(pool)):
            file.write(pool[: end - start])


def load_and_run(folder: Path) -> dict[str, float]:
    """In a process of its own, because the peak of memory is a process's: load, check and predict once."""
    from exvideo_core.families.svd.checkpoint import read_svd
    from exvideo_core.families.svd.config import UNetConfig
    from exvideo_core.families.svd.unet import SVDUNet
    from exvideo_core.weights.assign import assign_weights

    svd = read_svd(folder / "svd_xt.safetensors", folder / "model.fp16.safetensors")
    with torch.device("meta"):
        unet = SVDUNet(UNetConfig.from_shapes({name: tuple(weight.shape) for name, weight in svd.unet.items()}))
    assign_weights(unet, svd.unet, "svd_xt.safetensors")
    x_BCHW = torch.randn(2, 8, 16, 16, dtype=torch.float16)
    context, ids = torch.randn(1, 1, 1024, dtype=torch.float16), torch.tensor([[29.0, 127.0, 0.02]])
    with torch.inference_mode():
        v_BCHW = unet(x_BCHW, torch.tensor(0.5), context, ids)
    return {
        "weights": len(unet.state_dict()),
        "frames": svd.extension_frames or 0,
        "finite": float(torch.isfinite(v_BCHW).all() and v_BCHW.shape == (2, 4, 16, 16)),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


@pytest.mark.slow
def test_full_size_files_load_and_run_within_their_own_size(tmp_path: Path) -> None:
    files = json.loads(gzip.decompress(GOLDEN.read_bytes()))["files"]
    try:
        write_random(tmp_path / "svd_xt.safetensors", files["svd_xt"])
        write_random(tmp_path / "model.fp16.safetensors", files["exvideo_svd_128f"])
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, __file__, str(tmp_path)]
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    finally:
        for path in tmp_path.iterdir():
            path.unlink()  # 6.5 GB, which pytest would keep

    result = json.loads(answer.stdout)
    assert (result["weights"], result["frames"], result["finite"]) == (1428 + 48, 128, 1.0)
    assert result["peak_gb"] < LIMIT_GB, result


if __name__ == "__main__":
    print(json.dumps(load_and_run(Path(sys.argv[1]))))
