"""Names of CogVideoX's layers and weights in diffusers (and here), in DiffSynth and in ComfyUI.

They are without a prefix such as `model.diffusion_model.`; N stands for the number of a block.
"""

from __future__ import annotations

from ...weights.names import rename, weights_of

# The layers that LoRAs change: diffusers', DiffSynth 1.1.9's (models/cog_dit.py), ComfyUI 0.30's
# (comfy/ldm/cogvideo/model.py).
LAYERS = (
    *((f"transformer_blocks.N.attn1.to_{x}", f"blocks.N.attn1.to_{x}", f"blocks.N.{x}") for x in "qkv"),
    ("transformer_blocks.N.attn1.to_out.0", "blocks.N.attn1.to_out", "blocks.N.attn_out"),
    *((f"transformer_blocks.N.attn1.norm_{x}", f"blocks.N.norm_{x}", f"blocks.N.norm_{x}") for x in "qk"),
    ("transformer_blocks.N.ff.net.0.proj", "blocks.N.ff.0", "blocks.N.ff_proj"),
    ("transformer_blocks.N.ff.net.2", "blocks.N.ff.2", "blocks.N.ff_out"),
    *((f"transformer_blocks.N.norm{i}.linear", *[f"blocks.N.norm{i}.linear"] * 2) for i in (1, 2)),
    ("patch_embed.proj", "patchify.proj", "patch_embed.proj"),
    ("patch_embed.text_proj", "context_embedder", "patch_embed.text_proj"),
    ("time_embedding.linear_1", "time_embedder.timestep_embedder.0", "time_embedding_linear_1"),
    ("time_embedding.linear_2", "time_embedder.timestep_embedder.2", "time_embedding_linear_2"),
    *((*[f"ofs_embedding.linear_{i}"] * 2, f"ofs_embedding_linear_{i}") for i in (1, 2)),  # of 1.5, image to video
    ("norm_out.linear",) * 3,
    ("proj_out",) * 3,
)
_NORMS = {
    **{f"blocks.N.norm{i}.norm": f"transformer_blocks.N.norm{i}.norm" for i in (1, 2)},
    "norm_final": "norm_final",
    "norm_out.norm": "norm_out.norm",
}
_POSITIONS = "patch_embed.pos_embedding"  # of the image-to-video model
FROM_COMFYUI = weights_of({comfyuis: ours for ours, _, comfyuis in LAYERS} | _NORMS) | {_POSITIONS: _POSITIONS}


def transformer_from_comfyui(name: str) -> str:
    """Rename a weight of ComfyUI's CogVideoX class (`blocks.7.q.weight`) to the transformer's name."""
    return rename(name, FROM_COMFYUI, "CogVideoX's transformer in ComfyUI's naming")
