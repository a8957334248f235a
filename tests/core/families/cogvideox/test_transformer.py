"""CogVideoX's transformer: batches, texts, times, sizes, number formats, and where its parts come from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from narrow_cogvideox import NARROW, TINY, build_transformer
from narrow_svd import noise
from torch import Tensor, nn

from exvideo_core.errors import CheckpointError
from exvideo_core.families.cogvideox.config import TransformerConfig
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.nn.attention import sdpa

CONFIG = TINY.transformer
TEXT_TOKENS = 5
TEXT = noise(1, TEXT_TOKENS, CONFIG.text_dim, seed=1)
STEP = torch.tensor(499)
# positions for the text tokens and 3 frames of 8x12 cells
TO_MOVE_PICTURES = replace(CONFIG, in_channels=32, learned_positions=TEXT_TOKENS + 3 * 4 * 6)


def latents(frames: int = 3, height: int = 8, width: int = 12, batch: int = 1, seed: int = 0) -> Tensor:
    return noise(batch, CONFIG.in_channels, frames, height, width, seed=seed)


@pytest.fixture
def transformer() -> CogVideoXTransformer:
    return build_transformer()


@torch.inference_mode()
def test_two_clips_at_once_equal_one_by_one(transformer: CogVideoXTransformer) -> None:
    clips, texts = latents(batch=2), noise(2, TEXT_TOKENS, CONFIG.text_dim, seed=3)
    steps = torch.tensor([999, 20])

    together = transformer(clips, steps, texts)
    apart = [transformer(clips[i : i + 1], steps[i], texts[i : i + 1]) for i in range(2)]

    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 2])
def test_one_timestep_and_one_text_are_for_all_clips(transformer: CogVideoXTransformer, rows: int) -> None:
    clips = latents(batch=2)
    repeated = transformer(clips, STEP.expand(rows), TEXT.expand(rows, -1, -1))

    torch.testing.assert_close(transformer(clips, STEP, TEXT), repeated)


@torch.inference_mode()
@pytest.mark.parametrize("what", ["latents", "timestep", "context", "times"])
def test_every_condition_changes_the_result(transformer: CogVideoXTransformer, what: str) -> None:
    changed = transformer(
        latents() + (what == "latents"),
        STEP + (what == "timestep"),
        TEXT + (what == "context"),
        torch.tensor([0, 1, 7 if what == "times" else 2]),
    )

    assert not torch.allclose(changed, transformer(latents(), STEP, TEXT), atol=1e-4)


@torch.inference_mode()
def test_frames_are_numbered_from_0_unless_it_is_said_otherwise(transformer: CogVideoXTransformer) -> None:
    assert torch.equal(transformer(latents(), STEP, TEXT), transformer(latents(), STEP, TEXT, torch.arange(3)))


@torch.inference_mode()
def test_clips_may_have_frame_numbers_of_their_own(transformer: CogVideoXTransformer) -> None:
    clips, times = latents(batch=2), torch.tensor([[0, 1, 2], [0, 9, 32]])
    together = transformer(clips, STEP, TEXT, times)
    apart = [transformer(clips[i : i + 1], STEP, TEXT, times[i]) for i in range(2)]

    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_words_have_no_positions(transformer: CogVideoXTransformer) -> None:
    torch.testing.assert_close(
        transformer(latents(), STEP, TEXT.flip(1)), transformer(latents(), STEP, TEXT), atol=1e-5, rtol=0
    )


@torch.inference_mode()
def test_frames_in_another_order_with_their_numbers_give_the_same(transformer: CogVideoXTransformer) -> None:
    order = torch.tensor([2, 0, 1])
    shuffled = transformer(latents()[:, :, order], STEP, TEXT, order)

    torch.testing.assert_close(shuffled, transformer(latents(), STEP, TEXT)[:, :, order], atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize(("frames", "height", "width"), [(1, 2, 2), (2, 4, 18), (13, 10, 2), (33, 4, 6)])
def test_clips_of_any_length_and_shape_run(
    transformer: CogVideoXTransformer, frames: int, height: int, width: int
) -> None:
    result = transformer(latents(frames, height, width), STEP, TEXT)

    assert result.shape == (1, CONFIG.out_channels, frames, height, width)
    assert bool(result.isfinite().all())


@pytest.mark.parametrize(("height", "width"), [(9, 12), (8, 11)])
def test_sides_that_are_no_multiples_of_the_patch_are_an_error(
    transformer: CogVideoXTransformer, height: int, width: int
) -> None:
    with pytest.raises(ValueError, match=f"multiples of 2 latent cells, not {height} and {width}"):
        transformer(latents(1, height, width), STEP, TEXT)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close(transformer: CogVideoXTransformer, dtype: torch.dtype) -> None:
    expected = transformer(latents(), STEP, TEXT)
    result = transformer.to(dtype)(latents().to(dtype), STEP, TEXT)

    assert result.dtype == dtype
    assert float((result.float() - expected).square().mean().sqrt()) < 0.1 * float(expected.std())


@pytest.mark.parametrize("config", [CONFIG, TO_MOVE_PICTURES], ids=["text to video", "image to video"])
def test_gradients_reach_every_weight(config: TransformerConfig) -> None:
    transformer = build_transformer(config)
    x_BCTHW, text = noise(2, config.in_channels, 3, 8, 12), TEXT.clone().requires_grad_()

    transformer(x_BCTHW, torch.tensor([10, 900]), text).square().mean().backward()

    without = {name for name, weight in transformer.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert not without
    assert text.grad is not None
    assert bool(text.grad.any())


@torch.inference_mode()
def test_learned_positions_are_added_to_words_and_patches() -> None:
    transformer = build_transformer(TO_MOVE_PICTURES)
    x_BCTHW = noise(1, 32, 3, 8, 12)
    moved = build_transformer(TO_MOVE_PICTURES)
    moved.patch_embed.pos_embedding.data += 1.0

    torch.testing.assert_close(moved.patch_embed(x_BCTHW, TEXT), transformer.patch_embed(x_BCTHW, TEXT) + 1)
    assert transformer(x_BCTHW, STEP, TEXT).shape == (1, 16, 3, 8, 12)


@torch.inference_mode()
def test_more_tokens_than_learned_positions_are_an_error() -> None:
    with pytest.raises(ValueError, match="learned positions for 77 tokens, but 5 of text and 96 of video were given"):
        build_transformer(TO_MOVE_PICTURES)(noise(1, 32, 4, 8, 12), STEP, TEXT)


@torch.inference_mode()
def test_attention_goes_through_the_given_function(transformer: CogVideoXTransformer) -> None:
    calls: list[tuple[int, ...]] = []

    def counted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        calls.append(tuple(q.shape))
        return sdpa(q, k, v)

    own = CogVideoXTransformer(CONFIG, attention=counted)
    own.load_state_dict(transformer.state_dict(), assign=True)

    torch.testing.assert_close(own(latents(), STEP, TEXT), transformer(latents(), STEP, TEXT))
    assert calls == [(1, 2, TEXT_TOKENS + 72, 16), (1, 2, 72, 16)]  # the last block returns the video's tokens only


def test_every_weight_is_in_a_layer_of_the_given_namespace() -> None:
    names = ("Linear", "Conv2d", "Conv3d", "GroupNorm", "LayerNorm", "Embedding")
    own = {name: type(name, (getattr(nn, name),), {}) for name in names}
    transformer = CogVideoXTransformer(CONFIG, ops=type("Ops", (), own))  # type: ignore[arg-type]
    elsewhere = {
        name
        for name, module in transformer.named_modules()
        for _ in module.named_parameters(recurse=False)
        if type(module) not in own.values()
    }

    assert not elsewhere


@pytest.mark.parametrize(
    "config",
    [
        TransformerConfig(),
        TransformerConfig(in_channels=32, learned_positions=226 + 13 * 30 * 45),
        NARROW.transformer,
        CONFIG,
        TO_MOVE_PICTURES,
        TransformerConfig(
            in_channels=4, out_channels=8, width=48, head_dim=48, layers=1, hidden=7, time_dim=3, text_dim=5, patch=4
        ),
    ],
    ids=["5b", "5b image to video", "narrow", "tiny", "tiny image to video", "other"],
)
def test_sizes_are_read_from_the_weights(config: TransformerConfig) -> None:
    with torch.device("meta"):
        weights = CogVideoXTransformer(config).state_dict()

    assert TransformerConfig.from_shapes({name: tuple(weight.shape) for name, weight in weights.items()}) == config


@pytest.mark.parametrize(
    "lost",
    ["patch_embed.proj.weight", "proj_out.weight", "transformer_blocks.0.attn1.norm_q.weight"],
)
def test_an_incomplete_transformer_is_an_error(lost: str) -> None:
    shapes = {name: tuple(weight.shape) for name, weight in build_transformer().state_dict().items() if name != lost}

    with pytest.raises(CheckpointError, match=f"not a complete CogVideoX transformer.*{lost}"):
        TransformerConfig.from_shapes(shapes)


def test_a_timestep_may_be_a_number_one_or_many() -> None:
    transformer = build_transformer(NARROW.transformer)
    x, context = noise(2, 16, 2, 4, 4), noise(2, 5, NARROW.transformer.text_dim, seed=1)

    with torch.inference_mode():
        many = transformer(x, torch.tensor([500, 500]), context)
        for timestep in (500, 500.0, torch.tensor(500), torch.tensor([500])):
            assert torch.equal(transformer(x, timestep, context), many)
