"""The documentation's numbers about activations are what a step needs at the real sizes, counted on the meta device."""

from pathlib import Path

import pytest
import torch

from exvideo_core.estimate.counting import counting
from exvideo_core.families.cogvideox.config import TransformerConfig
from exvideo_core.families.cogvideox.transformer import Block, CogVideoXTransformer
from exvideo_core.families.svd.blocks import ResBlock
from exvideo_core.families.svd.config import UNetConfig
from exvideo_core.families.svd.objective import svd_loss
from exvideo_core.families.svd.training import trained_units
from exvideo_core.families.svd.transformer import SpatioTemporalTransformer
from exvideo_core.families.svd.unet import SVDUNet
from exvideo_core.lora import attach, new_lora
from exvideo_core.training.recipe import checkpoint_blocks

PAGE = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")


class Attention(torch.autograd.Function):
    """Attention without its values: holds queries, keys, values and the result, and gradients of their sizes.

    For networks that are checkpointed, whose second forward runs where autograd does and not in the block that counts.
    """

    @staticmethod
    def forward(ctx, q, k, v):
        result = torch.empty_like(q) if q.shape[-1] == v.shape[-1] else q.new_empty((*q.shape[:-1], v.shape[-1]))
        ctx.save_for_backward(q, k, v, result)
        return result

    @staticmethod
    def backward(ctx, _gradient):
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


def svd_step(frames, side, is_checkpointed):
    """Bytes of all but the weights at the fullest moment of one clip's forward and backward pass."""
    with torch.device("meta"):
        unet = (
            SVDUNet(UNetConfig(extension_frames=128), attention=Attention.apply)
            .to(torch.bfloat16)
            .requires_grad_(False)
        )
        for unit in trained_units(unet, "temporal").values():
            unit.requires_grad_(True)
        if is_checkpointed:
            checkpoint_blocks(m for m in unet.modules() if isinstance(m, ResBlock | SpatioTemporalTransformer))
        latents, noise = torch.empty(2, frames, 4, side // 8, side // 8)
        inputs = latents[0], torch.empty(1, 1024), torch.empty(1, 3), torch.empty(()), noise
        with counting() as tally:
            loss, _ = svd_loss(lambda x, *told: unet(x.bfloat16(), *told), latents, *inputs)
            loss.backward()
    return tally.peak


def cogvideox_step(latent_frames, is_checkpointed):
    """Likewise, of 480x720 pixels."""
    with torch.device("meta"):
        transformer = CogVideoXTransformer(TransformerConfig(), attention=Attention.apply).to(torch.bfloat16)
        attached = attach(transformer, new_lora(transformer, rank=64))
        for factors in attached.factors.values():
            factors.bfloat16()
        if is_checkpointed:
            checkpoint_blocks(module for module in transformer.modules() if isinstance(module, Block))
        x = torch.empty(1, 16, latent_frames, 60, 90, dtype=torch.bfloat16)
        context, timestep = torch.empty(1, 226, 4096, dtype=torch.bfloat16), torch.empty(1)
        with counting() as tally:
            transformer(x, timestep, context).float().square().mean().backward()
    return tally.peak


def test_attention_s_gradient_is_without_scores():
    q, k, v = (torch.empty(1, 1, 1000, 8, device="meta").requires_grad_() for _ in range(3))
    with counting() as tally:
        Attention.apply(q, k, v).sum().backward()

    assert tally.peak < 4 * 1000 * 1000
    assert q.grad.shape == q.shape


@pytest.mark.parametrize(
    ("row", "count"),
    [
        ("SVD, 128 frames of 512x512", lambda is_checkpointed: svd_step(128, 512, is_checkpointed)),
        ("SVD, a window of 32 of them", lambda is_checkpointed: svd_step(32, 512, is_checkpointed)),
        ("SVD, 128 frames of 256x256", lambda is_checkpointed: svd_step(128, 256, is_checkpointed)),
        ("CogVideoX, 129 frames of 720x480", lambda is_checkpointed: cogvideox_step(33, is_checkpointed)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_activations_are_what_the_page_says(row, count, monkeypatch):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: True)  # the meta device has none
    counted = " | ".join(f"{count(is_checkpointed) / 1e9:.1f} GB" for is_checkpointed in (True, False))

    assert f"| {row} | {counted} |" in PAGE, counted
