"""The animated preview from a running server, on the demo models: what a program hears, and what a person sees."""

import base64
import io
import json
import time

import pytest
from PIL import Image
from safetensors.torch import load

from host.browser import find_chromium, open_page
from host.websocket import TEXT, WebSocket

pytestmark = pytest.mark.comfyui

FRAMES = {"svd": 6, "cogvideox": 3}  # latent frames of the clips below
EVENT = "exvideo.preview"


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def clip_prompt(model, *, preview="animated", steps=2, preset="as set"):
    """A small clip by a demo model, whose latents are saved."""
    sampler = {"model": ["load", 0], "seed": 3, "steps": steps, "guidance_min": 0.0, "guidance_max": 0.0}
    sampler |= {"denoise": 1.0, "normalize": "auto", "contrast": 0.0, "preset": preset, "preview": preview}
    if model == "svd":
        graph = {
            "load": node("ExVideoSVDLoader", checkpoint="demo svd", extension="demo 128 frames", weight_dtype="fp32"),
            "picture": node("EmptyImage", width=128, height=128, batch_size=1, color=0x3366CC),
            "start": node(
                "ExVideoSVDConditioning",
                clip_vision=["load", 1],
                vae=["load", 2],
                image=["picture", 0],
                width=128,
                height=128,
                frames=6,
                fps=30,
                motion_bucket_id=127,
                noise_augmentation=0.02,
                seed=3,
                keyframe_indices="",
                encode_scale=0.18215,
            ),
        }
        sampler |= {"positive": ["start", 0], "negative": ["start", 1], "latent": ["start", 2]}
    else:
        names = dict.fromkeys(("transformer", "text_encoder", "vae"), "demo cogvideox")
        graph = {
            "load": node("ExVideoCogVideoXLoader", **names, weight_dtype="fp32"),
            "positive": node("CLIPTextEncode", clip=["load", 1], text="a red circle swings on white"),
            "negative": node("CLIPTextEncode", clip=["load", 1], text=""),
            "start": node("ExVideoCogVideoXLatent", width=48, height=32, frames=9),
        }
        sampler |= {"positive": ["positive", 0], "negative": ["negative", 0], "latent": ["start", 0]}
    saved = node("SaveLatent", samples=["sample", 0], filename_prefix=f"preview/{model}_{preview}")
    return {**graph, "sample": node("ExVideoSampler", **sampler), "save": saved}


class Listener:
    """A program that queues prompts and hears what comes for it."""

    def __init__(self, running):
        self.client = running.client
        host, port = running.url.removeprefix("http://").split(":")
        self.socket = WebSocket(host, int(port), "/ws?clientId=preview_test")

    def run(self, prompt, on_preview=lambda _: None):
        """The contents of all previews until the prompt has ended, and the kind of the last message."""
        self.client.post("/prompt", {"prompt": prompt, "client_id": "preview_test"})
        previews, end = [], time.monotonic() + 120
        while time.monotonic() < end:
            message = self.socket.read(timeout=1)
            event = json.loads(message.payload) if message and message.opcode == TEXT else {"type": ""}
            if event["type"] == EVENT:
                previews.append(event["data"])
                on_preview(event["data"])
            elif event["type"] in ("execution_success", "execution_error", "execution_interrupted"):
                return previews, event["type"]
        raise AssertionError("the prompt did not end")


@pytest.fixture
def listener(comfyui):
    listener = Listener(comfyui)
    yield listener
    listener.socket.close()


def saved_latents(running, name):
    files = sorted((running.base / "output" / "preview").glob(f"{name}_*.latent"))
    return load(files[-1].read_bytes())["latent_tensor"]


@pytest.mark.parametrize("model", FRAMES)
def test_a_program_hears_every_frame_and_off_is_off(comfyui, listener, model):
    shown, ending = listener.run(clip_prompt(model))
    silent, _ = listener.run(clip_prompt(model, preview="off"))

    assert ending == "execution_success"
    assert shown[-1]["step"] == 2
    assert all(content["node"] == content["display_node"] == "sample" for content in shown)
    assert all(content["prompt_id"] for content in shown)
    picture = Image.open(io.BytesIO(base64.b64decode(shown[-1]["image"].partition(",")[2])))
    assert picture.n_frames == shown[-1]["frames"] == FRAMES[model]
    assert silent == []
    assert saved_latents(comfyui, f"{model}_animated").equal(saved_latents(comfyui, f"{model}_off"))


def test_cancel_ends_a_run_that_is_previewed(listener):
    shown, ending = listener.run(clip_prompt("cogvideox", steps=900), lambda _: listener.client.interrupt())

    assert ending == "execution_interrupted"
    assert shown[-1]["step"] < 900


def test_the_oldest_comfyui_sends_it_too(oldest_comfyui):
    listener = Listener(oldest_comfyui)
    try:
        shown, ending = listener.run(clip_prompt("cogvideox", preset="low memory"))
    finally:
        listener.socket.close()

    assert ending == "execution_success"
    assert shown[-1]["frames"] == FRAMES["cogvideox"]


SAMPLER = "app.graph._nodes.find(node => node.type === 'ExVideoSampler')"
PICTURE = f"{SAMPLER}.widgets.find(widget => widget.name === 'exvideo_preview')?.element"
SAVED = """() => { const saved = app.graph.serialize().nodes.find(node => node.type === 'ExVideoSampler');
  return [saved.widgets_values, [...saved.size]] }"""
# Which of the page's nodes would show ComfyUI's own preview, if it came for each of these two.
STOCK = """() => { const shown = [], api = comfyAPI.api.api;
  api.addEventListener('b_preview_with_metadata', event => shown.push(event.detail.displayNodeId));
  for (const displayNodeId of ['sample', 'save'])
    api.dispatchCustomEvent('b_preview_with_metadata', { displayNodeId, jobId: '', blob: new Blob(['']) });
  return shown }"""


@pytest.mark.browser
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")
def test_a_person_sees_it_move_on_the_node_and_the_graph_stays_as_it_was(comfyui, tmp_path):
    prompt = clip_prompt("cogvideox", steps=16)
    with open_page(comfyui.url, size=(1600, 1000)) as opened:
        page = opened.page
        page.evaluate("prompt => app.loadApiJson(prompt, 'preview')", prompt)
        page.evaluate(f"{SAMPLER}.widgets.find(widget => widget.name === 'control_after_generate').value = 'fixed'")
        values, (_, height) = page.evaluate(SAVED)
        page.evaluate("app.queuePrompt(0)")
        page.wait_for_function(f"() => ({PICTURE})?.naturalWidth === 6", timeout=120_000)
        page.wait_for_function("() => comfyAPI.api.api && app.ui.lastQueueSize === 0", timeout=120_000)
        opened.picture(tmp_path / "preview.png")
        shown = page.evaluate_handle(PICTURE).as_element()
        looks = {shown.screenshot() for _ in range(6) if page.wait_for_timeout(250) is None}  # a frame lasts 0.5 s

        assert len(looks) > 1
        saved_values, (_, saved_height) = page.evaluate(SAVED)
        assert saved_values == values
        assert saved_height - height < 100 < page.evaluate(f"{SAMPLER}.size[1]") - saved_height  # the text adds some
        assert page.evaluate(STOCK) == ["save"]
        assert opened.errors == []


# What the server says in thirty runs of twenty pictures each.
THIRTY_RUNS = """([id, image]) => { const api = comfyAPI.api.api;
  for (let run = 0; run < 30; run++) {
    api.dispatchCustomEvent('execution_start', { prompt_id: String(run), timestamp: 0 });
    api.dispatchCustomEvent('executing', id);
    for (let step = 0; step < 20; step++)
      api.dispatchCustomEvent('exvideo.preview', { display_node: id, image });
  } }"""
HELD = f"""() => [document.querySelectorAll('img[alt="the clip so far"]').length,
  {SAMPLER}.widgets.length, [...{SAMPLER}.size]]"""
DOT = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


@pytest.mark.browser
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")
def test_a_page_that_stays_open_holds_one_picture_after_thirty_runs(comfyui):
    with open_page(comfyui.url) as opened:
        page = opened.page
        page.evaluate("prompt => app.loadApiJson(prompt, 'preview')", clip_prompt("cogvideox"))
        number = page.evaluate(f"String({SAMPLER}.id)")
        page.evaluate(THIRTY_RUNS, [number, DOT])
        page.wait_for_timeout(500)
        held = page.evaluate(HELD)
        page.evaluate(THIRTY_RUNS, [number, DOT])
        page.wait_for_timeout(500)

        assert held[0] == 1
        assert page.evaluate(HELD) == held
        assert opened.errors == []
