"""Whole clips that are cut off go on with the same result; with anything else than the same they start anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import narrow_cogvideox
import narrow_svd
import pytest
import torch
from saved_runs import STEPS, Cut, cut_after

from exvideo_core.nn.step_cache import Reuse, StepCache
from exvideo_core.runtime.resume import SavedRun

SVD = narrow_svd.build_pipeline(extension_frames=8)
COGVIDEOX = narrow_cogvideox.build_pipeline()
PICTURE = torch.rand(128, 128, 3, generator=torch.Generator().manual_seed(1))
REUSE = Reuse(threshold=0.9, first_steps=1)


def svd_clip(**settings: Any) -> Any:
    return SVD(PICTURE, num_frames=3, height=128, width=128, **{"num_inference_steps": STEPS, **settings})


def cogvideox_clip(**settings: Any) -> Any:
    settings = {"num_inference_steps": STEPS, "guidance_scale": 2.0, **settings}
    return COGVIDEOX("a red circle", num_frames=9, height=48, width=64, **settings)


CLIPS = [
    *((svd_clip, {"method": method}) for method in ("euler", "dpmpp_2m")),
    (svd_clip, {"reuse": REUSE}),
    (svd_clip, {"method": "dpmpp_2m", "reuse": REUSE, "keyframes": {2: PICTURE}}),
    *((cogvideox_clip, {"method": method}) for method in ("ddim", "ddim_trailing", "dpmpp_2m", "dpmpp_2m_sde")),
    # many steps, for in this network few of few change little
    (cogvideox_clip, {"num_inference_steps": 40, "reuse": REUSE}),
    (cogvideox_clip, {"num_inference_steps": 40, "reuse": REUSE, "method": "dpmpp_2m_sde"}),
]


def described(value: Any) -> str:
    """For the name of a test."""
    return "-".join(f"{key} {item}"[:30] for key, item in value.items()) if isinstance(value, dict) else value.__name__


clips = pytest.mark.parametrize(("clip", "settings"), CLIPS, ids=described)


@clips
def test_a_clip_that_was_stopped_becomes_the_same(clip: Any, settings: dict[str, Any], saved: SavedRun) -> None:
    expected = clip(**settings)
    all_steps = settings.get("num_inference_steps", STEPS)
    for step in (all_steps // 2, all_steps // 2 + 1):
        with pytest.raises(Cut):
            clip(**settings, callback=cut_after(step), resume=saved)
    steps: list[int] = []

    result = clip(**settings, callback=lambda done, *_: steps.append(done), resume=saved)

    assert steps == list(range(all_steps // 2 + 2, all_steps + 1))
    assert torch.equal(result.latents, expected.latents)
    assert torch.equal(result.frames, expected.frames)


@pytest.mark.parametrize(("clip", "steps"), [(svd_clip, STEPS), (cogvideox_clip, 40)])
def test_reuse_is_at_work_in_these_clips(clip: Any, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    decide, decided = StepCache.decides, []
    monkeypatch.setattr(StepCache, "decides", lambda self, change: decided.append(decide(self, change)) or decided[-1])
    clip(reuse=REUSE, num_inference_steps=steps)

    half = len(decided) // 2
    assert any(decided[:half])
    assert any(decided[half:])


OTHERS: list[tuple[Any, dict[str, Any]]] = [
    (svd_clip, {"seed": 1}),
    (svd_clip, {"fps": 8}),
    (svd_clip, {"motion_bucket_id": 20}),
    (svd_clip, {"min_guidance_scale": 1.5}),
    (svd_clip, {"keyframes": {1: PICTURE}}),
    (svd_clip, {"method": "dpmpp_2m"}),
    (svd_clip, {"reuse": REUSE}),
    (svd_clip, {"denoise": 0.5, "init_video": [PICTURE] * 3}),
    (cogvideox_clip, {"seed": 1}),
    (cogvideox_clip, {"negative_prompt": "blur"}),
    (cogvideox_clip, {"guidance_scale": 3.0}),
    (cogvideox_clip, {"method": "ddim_trailing"}),
]


@pytest.mark.parametrize(("clip", "other"), OTHERS, ids=described)
def test_with_other_settings_a_clip_starts_anew(
    clip: Any, other: dict[str, Any], saved: SavedRun, said: list[str]
) -> None:
    with pytest.raises(Cut):
        clip(resume=saved, callback=cut_after(2))

    with pytest.raises(Cut):
        clip(**other, resume=saved, callback=cut_after(1))
    assert "of another run" in said[0]


def test_with_other_weights_a_clip_starts_anew(saved: SavedRun, said: list[str]) -> None:
    with pytest.raises(Cut):
        svd_clip(resume=saved, callback=cut_after(2))
    weight = next(iter(SVD.unet.middle_block.parameters()))
    weight.data[0] += 1
    with pytest.raises(Cut):
        svd_clip(resume=saved, callback=cut_after(1))
    weight.data[0] -= 1

    assert "of another run" in said[0]


def test_what_decoding_is_told_does_not_matter(saved: SavedRun, said: list[str]) -> None:
    svd_clip(resume=saved)
    svd_clip(resume=saved, contrast=2.0, normalize=False)

    assert said == [f"resuming after step {STEPS} of {STEPS}"]


def test_a_path_will_do(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        svd_clip(resume=tmp_path / "run", callback=cut_after(4))
    steps: list[int] = []
    svd_clip(resume=str(tmp_path / "run"), callback=lambda done, *_: steps.append(done))

    assert steps == [5]
