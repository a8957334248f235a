"""From a sentence to a video in one graph, with a checkpoint in Stable Diffusion 1.5's real form, all zeros."""

import json
import time

import pytest
import torch
from in_comfyui import SMALL, SVD_WORKFLOW, change, place_files

from exvideo_core.video import probe
from host.graph import nodes_of, read_graph, to_prompt

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]  # 2 GB are read and widened

WORKFLOW = SVD_WORKFLOW.with_name("exvideo_text_to_image_to_128f.json")
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1] * 9 + [0] * 3,
    "use_spatial_transformer": True,
    "context_dim": 768,
    "num_heads": 8,
}
VAE = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128}
VAE |= {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}
TEXT = {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
TEXT |= {"hidden_act": "quick_gelu", "max_position_embeddings": 77, "eos_token_id": 49407}


def save_zeros(path):
    """The checkpoint as a sparse file: names and shapes are ComfyUI's own, and the zeros take no room on the disk."""
    import comfy.ops
    from comfy.clip_model import CLIPTextModel
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    with torch.device("meta"):
        parts = {
            "model.diffusion_model": UNetModel(**UNET),
            "first_stage_model": AutoencoderKL(ddconfig=VAE, embed_dim=4),
            "cond_stage_model.transformer": CLIPTextModel(TEXT, torch.float16, "meta", comfy.ops.manual_cast),
        }
    header, end = {}, 0
    for part, network in parts.items():
        for name, tensor in network.state_dict().items():
            start, end = end, end + 2 * tensor.numel()
            header[f"{part}.{name}"] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def test_sentence_becomes_a_video(pack, comfyui, tmp_path):
    place_files(comfyui.base, [WORKFLOW])
    prompt = to_prompt(read_graph(WORKFLOW), comfyui.client.object_info())
    (loader,) = nodes_of(prompt, "CheckpointLoaderSimple")
    save_zeros(comfyui.base / "models" / "checkpoints" / loader["inputs"]["ckpt_name"])
    time.sleep(1.1)  # ComfyUI looks again when a folder's time has changed
    change(prompt, {**SMALL, "EmptyLatentImage": {"width": 64, "height": 64}, "KSampler": {"steps": 1}})

    files = comfyui.client.run(prompt).files

    (video,) = (file for file in files if file["filename"].endswith(".mp4"))
    (picture,) = (file for file in files if file["filename"].endswith(".png"))
    assert picture["type"] == "temp"  # Preview Image
    assert probe(comfyui.client.download(video, tmp_path)).num_frames == 6
