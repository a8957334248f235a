"""The CogVideoX demo model's scenes, lessons and measures; short trainings only."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open

from exvideo_core import load_cogvideox
from exvideo_core.families.cogvideox.files import DEMO_TEXT_ENCODER, DEMO_TRANSFORMER, DEMO_VAE
from exvideo_core.families.cogvideox.text_encoder import MAX_TOKENS
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.families.cogvideox.vae import SCALING_FACTOR
from exvideo_core.training.procedural.shapes import (
    ALL_WORDS,
    MOTIONS,
    PERIOD,
    TRAINED,
    Scenes,
    Words,
    motion_path,
)
from tools.demo_models.cogvideox import transformer as lessons
from tools.demo_models.cogvideox.__main__ import main
from tools.demo_models.cogvideox.autoencoder import decoder_loss, draw_clips, encoder_loss, newborn_vae
from tools.demo_models.cogvideox.measure import PROMPTS, look_at
from tools.demo_models.cogvideox.small_pictures import preview_factors, small_pictures
from tools.demo_models.cogvideox.text import TextLesson, text_loss, understood

WORDS = Words(0, 0, 0, 1)
FRAMES = torch.arange(33)


def clip(words, frames=FRAMES, seed=0):
    """[F, 96, 96, 3] in [0, 1]."""
    scenes = Scenes.draw((words,), torch.Generator().manual_seed(seed))
    return (scenes.frames(frames[None])[0].permute(1, 2, 3, 0) + 1) / 2


# scenes


def test_prompt_says_the_words():
    assert WORDS.prompt() == "a red circle swings on white"


def test_a_tenth_is_held_out_and_every_word_is_trained():
    assert len(ALL_WORDS) == 288
    assert 0.08 < 1 - len(TRAINED) / 288 < 0.12
    for field, count in (("colour", 4), ("shape", 3), ("motion", 6), ("ground", 4)):
        assert {getattr(words, field) for words in TRAINED} == set(range(count))
    assert sum(words.is_held_out for words in PROMPTS) == 3
    assert len(set(PROMPTS)) == 12


@pytest.mark.parametrize("motion", range(len(MOTIONS)))
def test_motions_repeat_and_differ(motion):
    once = motion_path(motion, torch.arange(PERIOD))

    torch.testing.assert_close(motion_path(motion, torch.arange(PERIOD) + PERIOD), once, atol=1e-3, rtol=0)
    for other in set(range(len(MOTIONS))) - {motion}:
        assert (motion_path(other, torch.arange(PERIOD)) - once).norm(dim=-1).mean() > 8


def test_colours_are_where_they_should_be():
    frame = clip(WORDS)[0]

    torch.testing.assert_close(frame[0, 0], torch.tensor([240, 240, 240]) / 255)
    torch.testing.assert_close(frame[48, 48 - 22], torch.tensor([220, 40, 40]) / 255)


def test_small_pictures_are_the_newest_frames():
    video = Scenes.draw((WORDS,), torch.Generator().manual_seed(0)).frames(torch.arange(9)[None])

    small = small_pictures(video)

    assert small.shape == (1, 16, 3, 12, 12)
    # channels: three colours x 2 x 2 cells, then the change of brightness
    newest = torch.nn.functional.avg_pool3d(video[:, :, ::4], (1, 4, 4))
    torch.testing.assert_close(small[0, 3], 1.25 * newest[0, 0, :, 1::2, 1::2])
    change = torch.nn.functional.avg_pool3d(video[:, :, 4::4] - video[:, :, 2::4], (1, 4, 4)).mean(dim=1)
    torch.testing.assert_close(small[0, 13, 1:], 2 * change[0, :, ::2, 1::2])
    assert change.abs().max() > 0.1
    assert small[0, 12:, 0].abs().max() == 0  # nothing was before the first frame


def test_preview_factors_give_colours():
    video = Scenes.typical(tuple(TRAINED[5:9])).frames(torch.zeros(4, 1))

    rgb = torch.einsum("bcthw,cr->brthw", small_pictures(video), preview_factors())

    torch.testing.assert_close(rgb, torch.nn.functional.avg_pool3d(video, (1, 8, 8)), atol=0.03, rtol=0)


# text


def test_text_lesson_is_learned():
    torch.manual_seed(0)
    lesson = TextLesson().eval()
    optimizer = torch.optim.Adam((p for p in lesson.parameters() if p.requires_grad), 1e-2)
    losses = []
    for _ in range(12):
        losses.append(text_loss(lesson, 4, torch.Generator().manual_seed(0)))
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()

    assert losses[-1] < 0.7 * losses[0]
    assert 0 <= understood(lesson, TRAINED[:2]) < 1


def test_finished_text_encoder_gives_what_the_lesson_gave(tmp_path):
    torch.manual_seed(0)
    lesson = TextLesson().eval()
    weights = lesson.finished()

    lesson.t5.load_state_dict(
        {**lesson.t5.state_dict(), **weights, "encoder.embed_tokens.weight": weights["shared.weight"]}
    )
    prompts = [WORDS.prompt(), ""]
    with torch.no_grad():
        whole = lesson.t5(input_ids=lesson.tokenizer(prompts)).last_hidden_state
        torch.testing.assert_close(whole, lesson(prompts))
    unused = next(row for row in range(32000) if row not in lesson.used)
    torch.testing.assert_close(weights["shared.weight"][unused], lesson.rows.mean(dim=0))


# transformer


def test_padding_counts_as_often_as_there_was():
    torch.manual_seed(0)
    config = dataclasses.replace(lessons.DEMO_TRANSFORMER, width=64, layers=2, hidden=64)
    usual = CogVideoXTransformer(config).eval()
    short = CogVideoXTransformer(config, attention=lessons.attention_with_padding).eval()
    short.load_state_dict(usual.state_dict())
    words, padding = torch.randn(1, 12, 64), torch.randn(1, 1, 64)
    context = torch.cat([words, padding.expand(-1, MAX_TOKENS - 12, -1)], dim=1)
    x = torch.randn(1, 16, 2, 4, 4)

    with torch.no_grad():
        whole = usual(x, torch.tensor(700), context)
        few = short(x, torch.tensor(700), lessons.shortened(context))

    torch.testing.assert_close(few, whole, atol=1e-5, rtol=1e-5)


def test_new_transformer_predicts_nothing():
    model = lessons.trainee().eval()
    with torch.no_grad():
        v = model(torch.randn(1, 16, 1, 12, 12), torch.tensor(5), torch.randn(1, 16, 64))

    assert v.abs().max() == 0


def test_times_are_neighbours_below_the_limit():
    times = lessons.draw_times(200, 13, 33, torch.Generator().manual_seed(0))

    assert times.min() == 0
    assert times.max() == 32
    assert (times.diff(dim=1) == 1).all()


# autoencoder


def test_autoencoder_losses_see_their_own_half():
    torch.manual_seed(0)
    vae = newborn_vae().eval()
    video, small = draw_clips(1, 48, torch.Generator().manual_seed(0))
    assert video.shape == (1, 3, 17, 48, 48)
    assert small.shape == (1, 16, 5, 6, 6)

    encoder_loss(vae, video, small).backward()
    assert all(p.grad is None for p in vae.decoder.parameters())
    decoder_loss(vae, small, video).backward()
    assert vae.decoder.conv_in.conv.weight.grad.abs().max() > 0
    with torch.no_grad():
        latents = vae.encode(video)
    assert encoder_loss(vae, video, SCALING_FACTOR * latents).item() == pytest.approx(0, abs=1e-6)
    assert decoder_loss(vae, small, vae.decode(small / SCALING_FACTOR)).item() == pytest.approx(0, abs=1e-4)


# measure


@pytest.mark.parametrize("words", PROMPTS[::3], ids=Words.prompt)
def test_truth_is_recognised(words):
    seen = look_at(clip(words, torch.arange(0, 129)), words)

    assert (seen.colour, seen.ground, seen.shape, seen.is_moving_rightly) == (True, True, True, True)
    assert seen.track_error < 1


@pytest.mark.parametrize("field", ["colour", "ground", "shape", "motion"])
def test_every_wrong_word_is_noticed(field):
    wrong = dataclasses.replace(WORDS, **{field: (getattr(WORDS, field) + 1) % 3})

    seen = look_at(clip(WORDS, torch.arange(0, 49)), wrong)

    assert [name for name in ("colour", "ground", "shape", "motion") if not getattr(seen, name)] == [field]


def test_smears_stills_and_empty_clips_do_not_pass():
    moving = clip(WORDS, torch.arange(0, 49))
    empty = moving[:1, :1, :1].expand(49, 96, 96, 3)
    smear = moving.min(dim=0, keepdim=True).values.expand_as(moving)

    assert look_at(smear, WORDS).area > 1.4
    assert not dataclasses.replace(look_at(moving, WORDS), area=2.0).is_moving_rightly
    assert not look_at(moving[:1].expand_as(moving), WORDS).is_moving_rightly
    found = look_at(empty, WORDS)
    assert (found.colour, found.shape, found.motion) == (False, False, False)


def test_the_nearest_motion_counts():
    numbers = torch.arange(0, 49)
    down = (0.3 * motion_path(0, numbers)[:, 0]).round().int().tolist()
    slanting = torch.stack([torch.roll(frame, by, 0) for frame, by in zip(clip(WORDS, numbers), down, strict=True)])

    seen = {MOTIONS[motion]: look_at(slanting, dataclasses.replace(WORDS, motion=motion)) for motion in (0, 3)}

    assert seen["swings"].motion
    assert seen["slides"].track_error < 8
    assert not seen["slides"].motion


# the whole recipe


def test_short_training_leaves_files_that_load(tmp_path):
    assert main(["--out", str(tmp_path), "--steps", "1"]) == 0

    pipeline = load_cogvideox(
        tmp_path / DEMO_TRANSFORMER.name,
        vae=tmp_path / DEMO_VAE.name,
        text_encoder=tmp_path / DEMO_TEXT_ENCODER.name,
    )
    with safe_open(tmp_path / DEMO_TRANSFORMER.name, "pt") as file:
        notes = file.metadata()
    result = pipeline(WORDS.prompt(), num_frames=9, height=32, width=32, num_inference_steps=1, guidance_scale=1.0)

    assert torch.tensor(json.loads(notes["latent_rgb_factors"])).shape == (16, 3)
    assert result.frames.shape == (9, 32, 32, 3)
