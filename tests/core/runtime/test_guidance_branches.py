"""Guidance on two devices: what one device makes, both branches at once, and nothing left over afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import narrow_cogvideox
import pytest
import torch
from narrow_svd import build_pipeline, build_unet, noise
from safetensors.torch import save_file
from torch import Tensor, nn

from exvideo_core import CogVideoXPipeline, ExVideoError, SVDPipeline, apply_lora
from exvideo_core.nn.chunks import CHUNK_BYTES
from exvideo_core.runtime.guidance_branches import branches, twin
from exvideo_core.sampling.inputs import chosen_devices

CPU = torch.device("cpu")
TWO = [CPU, CPU]


class CancelError(Exception):
    """What a host raises from a callback, and a network that is stopped."""


@pytest.fixture
def moving_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """As between two devices, which a test without GPU does not have."""
    move = Tensor.to
    monkeypatch.setattr(Tensor, "to", lambda tensor, *args, **kinds: move(tensor, *args, **kinds).clone())


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("guidance")]


def svd_pipeline() -> SVDPipeline:
    return build_pipeline(extension_frames=8)


def svd_clip(pipe: SVDPipeline, **settings: Any) -> Tensor:
    picture = torch.rand(128, 128, 3, generator=torch.Generator().manual_seed(0))
    quick = {"num_frames": 3, "height": 128, "width": 128, "num_inference_steps": 2, "max_guidance_scale": 3.0}
    return pipe(picture, **(quick | settings)).latents


def cog_pipeline() -> CogVideoXPipeline:
    return CogVideoXPipeline(narrow_cogvideox.build_transformer(), narrow_cogvideox.build_vae())


def cog_clip(pipe: CogVideoXPipeline, **settings: Any) -> Tensor:
    texts = {"prompt_embeds": noise(1, 5, 8, seed=1), "negative_prompt_embeds": noise(1, 5, 8, seed=2)}
    quick = {"num_frames": 9, "height": 32, "width": 48, "num_inference_steps": 3}
    return pipe(**(texts | quick | settings)).latents


@pytest.mark.usefixtures("moving_copies")
def test_svd_on_two_devices_is_svd_on_one() -> None:
    pipe = svd_pipeline()
    alone = svd_clip(pipe)
    pipe.devices = TWO

    assert torch.equal(svd_clip(pipe), alone)


@pytest.mark.usefixtures("moving_copies")
@pytest.mark.parametrize("scale", [6.0, [6.0, 1.0, 4.0]])
def test_cogvideox_on_two_devices_is_cogvideox_on_one(scale: float | list[float]) -> None:
    pipe = cog_pipeline()
    alone = cog_clip(pipe, guidance_scale=scale)
    pipe.devices = TWO

    assert torch.equal(cog_clip(pipe, guidance_scale=scale), alone)


@pytest.mark.usefixtures("moving_copies")
def test_a_lora_is_on_both_devices(tmp_path: Path) -> None:
    width = narrow_cogvideox.TINY.transformer.width
    names = (f"blocks.0.attn1.to_q.lora_{side}.default.weight" for side in "AB")
    save_file(dict(zip(names, (noise(2, width), noise(width, 2)), strict=True)), tmp_path / "lora.safetensors")
    pipe, alone = cog_pipeline(), cog_pipeline()
    pipe.devices = TWO
    assert torch.equal(cog_clip(pipe), before := cog_clip(alone))
    apply_lora(pipe, tmp_path / "lora.safetensors")
    apply_lora(alone, tmp_path / "lora.safetensors")

    assert torch.equal(cog_clip(pipe), after := cog_clip(alone))
    assert not torch.equal(after, before)


def linear(width: int) -> nn.Module:
    """A network that has a budget as the real ones."""
    network = nn.Linear(width, width)
    network.chunk_bytes = CHUNK_BYTES
    return network


def test_both_branches_run_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=20)

    def predict(network: nn.Module, x: Tensor) -> Tensor:
        meeting.wait()
        assert torch.is_inference_mode_enabled()
        return network(x)

    network = linear(2)
    with torch.inference_mode(), branches(network, TWO, None) as pair:
        positive, negative = pair.both(predict, [torch.ones(2)], [torch.zeros(2)])

    assert torch.equal(positive, network(torch.ones(2)))
    assert torch.equal(negative, network(torch.zeros(2)))


@pytest.mark.parametrize("failing", [0.0, 1.0])
def test_an_error_in_either_branch_is_raised_and_the_other_ends(failing: float) -> None:
    done = []

    def predict(_network: nn.Module, x: Tensor) -> Tensor:
        if float(x) == failing:
            raise CancelError
        done.append(float(x))
        return x

    with pytest.raises(CancelError), branches(linear(1), TWO, None) as pair:
        pair.both(predict, [torch.tensor(1.0)], [torch.tensor(0.0)])

    assert done == [1.0 - failing]


def test_a_cancelled_clip_leaves_no_thread_and_can_be_repeated() -> None:
    pipe = cog_pipeline()
    expected = cog_clip(pipe)
    pipe.devices = TWO

    def cancel(*_: object) -> None:
        raise CancelError

    with pytest.raises(CancelError):
        cog_clip(pipe, callback=cancel)
    assert torch.equal(cog_clip(pipe), expected)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_without_guidance_the_second_device_is_not_used(scale: float) -> None:
    pipe, calls = svd_pipeline(), []
    pipe.devices = TWO
    pipe.unet.register_forward_pre_hook(lambda unet, _: calls.append(unet))
    svd_clip(pipe, min_guidance_scale=scale, max_guidance_scale=scale)

    assert len(calls) == 2 * scale
    assert {unet is pipe.unet for unet in calls} == ({True} if scale == 1 else {True, False})


def test_a_twin_shares_what_is_there_already() -> None:
    unet = build_unet(extension_frames=8)
    pairs = list(zip(unet.parameters(), twin(unet, CPU, CPU).parameters(), strict=True))

    assert all(ours.data_ptr() == theirs.data_ptr() and ours is not theirs for ours, theirs in pairs)


@pytest.mark.usefixtures("moving_copies")
def test_a_twin_shares_what_is_not_on_the_device_that_moves() -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1, device="meta"))
    other = twin(network, CPU, CPU)

    assert other[0].weight.data_ptr() != network[0].weight.data_ptr()
    assert torch.equal(other[0].weight, network[0].weight)
    assert other[1].weight.device.type == "meta"


def test_a_hook_on_a_twin_is_the_twins_own() -> None:
    network, calls = nn.Linear(1, 1), []
    twin(network, CPU, CPU).register_forward_hook(lambda *_: calls.append(1))
    network(torch.ones(1))

    assert not calls


def test_devices_are_given_in_many_ways() -> None:
    assert chosen_devices("cpu") == chosen_devices(CPU) == [CPU]
    assert chosen_devices("cpu, cpu") == chosen_devices(["cpu", CPU]) == TWO
    assert len(chosen_devices(None)) == 1


def test_devices_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(ExVideoError, match=r"3 devices were given, but guidance has two branches"):
        chosen_devices("cpu,cpu,cpu")
    with pytest.raises(ExVideoError, match=r"device 'cuda:77' cannot be used \(.+\)\. Choose another"):
        chosen_devices("cuda:77")
    with pytest.raises(ExVideoError, match="device 'gpu' cannot be used"):
        chosen_devices("gpu")
