"""A real server whose prompt is cancelled or that is killed: the same prompt, queued again, gives the same file."""

import os
import random
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from in_comfyui import change

from exvideo_core.video import load_frames
from host.client import Client
from host.comfyui_trees import NEWEST, OLDEST
from host.environment import Environment
from host.graph import nodes_of
from host.server import Server
from run import DEMOS, PACK, PICTURE, demo_prompt

pytestmark = pytest.mark.comfyui

ROOT = Path(__file__).resolve().parents[2]
SIZES = {
    "svd": {"ExVideoSVDConditioning": {"frames": 12, "fps": 15}, "ExVideoSampler": {"steps": 6}},
    "cogvideox": {"ExVideoCogVideoXLatent": {"frames": 17}, "ExVideoSampler": {"steps": 6}},
}


def prompt_of(client, model, **sampler):
    prompt = demo_prompt(replace(DEMOS[model]), client.object_info())
    change(prompt, SIZES[model])
    change(prompt, {"ExVideoSampler": sampler})
    return prompt


def place_picture(base):
    (base / "input").mkdir(exist_ok=True)
    shutil.copy(PICTURE, base / "input")


@pytest.mark.parametrize("server", ["comfyui", "oldest_comfyui"])
def test_a_cancelled_prompt_goes_on_when_it_is_queued_again(server, request, tmp_path):
    running = request.getfixturevalue(server)
    client = running.client
    place_picture(running.base)
    whole = client.run(prompt_of(client, "svd", resume=False))
    prompt = prompt_of(client, "svd")
    sampler = next(node_id for node_id, node in prompt.items() if node["class_type"] == "ExVideoSampler")

    def cancel(node_id, done, _steps):
        if node_id == sampler and done == 3:
            client.interrupt()

    with pytest.raises(Exception, match="interrupted"):
        client.run(prompt, on_progress=cancel)
    resumed = client.run(prompt)

    assert "resuming after step" in running.server.read_log()
    clips = [load_frames(client.download(run.files[0], tmp_path)) for run in (whole, resumed)]
    assert torch.equal(*clips)


def test_kept_latents_give_the_same_video_later(comfyui, tmp_path):
    client = comfyui.client
    prompt = prompt_of(client, "cogvideox", keep_latents=True)
    ran = client.run(prompt)
    (kept,) = (comfyui.base / "output" / "latents").glob("ExVideo_*.latent")
    shutil.copy(kept, comfyui.base / "input" / "later.latent")
    (decode,), (sampler,) = nodes_of(prompt, "VAEDecode"), nodes_of(prompt, "ExVideoSampler")
    sampler |= {"class_type": "LoadLatent", "inputs": {"latent": "later.latent"}}

    later = client.run(prompt)

    clips = [load_frames(client.download(run.files[0], tmp_path)) for run in (ran, later)]
    assert decode["inputs"]["samples"][0] in prompt
    assert torch.equal(*clips)
    kept.unlink()


# kill -9


def start(tree, base):
    server = Server(Path(sys.executable), tree, base, packs={PACK: ROOT})
    server.start()
    return server, Client(server.url)


def wait_for_state(folder, server, prompt_id, client):
    """When the first state of the run was there."""
    end = time.monotonic() + 300
    while not any(folder.glob("*.safetensors")):
        assert server.is_running
        assert time.monotonic() < end
        assert client.history(prompt_id) is None, "it ended before a step was saved"
        time.sleep(0.02)
    return time.monotonic()


@pytest.mark.skipif(os.name == "nt", reason="has no kill -9")
@pytest.mark.slow
@pytest.mark.parametrize(("version", "model"), [(NEWEST, "svd"), (NEWEST, "cogvideox"), (OLDEST, "svd")])
def test_ten_kills_at_random_moments_change_nothing(version, model, tmp_path, monkeypatch):
    longer = {"svd": ("ExVideoSVDConditioning", 32, 16), "cogvideox": ("ExVideoCogVideoXLatent", 65, 16)}
    node, frames, steps = longer[model]
    monkeypatch.setitem(SIZES, model, {node: {"frames": frames}, "ExVideoSampler": {"steps": steps}})
    base, generator, told = tmp_path / "base", random.Random(model), []
    folder, output = base / "output" / "exvideo" / "unfinished", base / "output"
    tree = Environment(ROOT).tree(version)
    base.mkdir()
    place_picture(base)
    kills = int(os.environ.get("EXVIDEO_KILLS", "10"))

    def clips():
        return sorted(output.rglob("*.mp4"))

    server, client = start(tree, base)
    with server:
        prompt = prompt_of(client, model)
        prompt_id = client.queue(prompt)
        begun = wait_for_state(folder, server, prompt_id, client)
        client.wait(prompt_id)
        seconds = time.monotonic() - begun
    (whole,) = clips()
    for number in range(kills):
        moment = seconds * (number + generator.random()) / kills  # one in each part of the time
        before = clips()
        while True:
            shutil.rmtree(folder)
            server, client = start(tree, base)
            with server:
                wait_for_state(folder, server, client.queue(prompt), client)
                time.sleep(moment)
                server.process.kill()
                server.process.wait()
            if clips() == before:
                break
            before, moment = clips(), moment * 0.8  # it was quicker than the first
        left = [path.suffix for path in folder.iterdir()]
        server, client = start(tree, base)
        with server:
            ran = client.wait(client.queue(prompt))
        assert ran.status == "success"
        (new,) = set(clips()) - set(before)
        assert new.read_bytes() == whole.read_bytes()
        assert [path for path in folder.iterdir() if path.suffix != ".safetensors"] == []
        said = [line.partition("ExVideo: ")[2] for line in server.read_log().splitlines() if "going on" in line]
        told.append(f"{version.version} {model}: {moment:.1f} of {seconds:.1f} s, {left}, {said}")
        print(told[-1], flush=True)
    assert sum("going on" in line for line in told) > kills / 2
