"""The animated preview: all frames, in the model's colours, seldom enough, and nothing of it in the result."""

import base64
import io
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from exvideo_core.families.svd.files import DEMO_CHECKPOINT
from exvideo_core.families.svd.pipeline import load_svd
from exvideo_core.families.svd.vae import SCALING_FACTOR
from exvideo_core.weights.safetensors_files import open_weights

SAMPLES = {"svd": (6, 6), "cogvideox": (17, 5)}  # frames and latent frames of the fixtures' clips


@pytest.fixture(params=["svd", "cogvideox"])
def either(request):
    """A run of one of the two models, and its latent frames."""
    run = request.getfixturevalue({"svd": "run", "cogvideox": "cog"}[request.param])
    run.latent_frames = SAMPLES[request.param][1]
    return run


@pytest.fixture
def sent(monkeypatch):
    """What a page would be sent: pairs of event and content."""
    events = []
    instance = SimpleNamespace(
        client_id="page",
        send_sync=lambda event, content, sid: events.append((event, content)),
        send_progress_text=lambda text, node_id: events.append(("text", text)),
    )
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    return events


@pytest.fixture
def clock(pack, monkeypatch):
    """Seconds that pass only when they are told to."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(pack.comfy_bridge.preview, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def node(either, preview, steps=3, model=None):
    hidden = SimpleNamespace(unique_id="7", prompt=None, extra_pnginfo=None)
    sampler = type("Sampler", (either.pack.sampler.ExVideoSampler,), {"hidden": hidden})
    options = {"seed": 3, "steps": steps, "guidance_min": 0.0, "guidance_max": 0.0, "denoise": 1.0}
    options |= {"normalize": "off", "contrast": 1.0, "preview": preview}
    with torch.inference_mode():
        result = sampler.execute(model or either.model, either.positive, either.negative, either.latent, **options)
    return result.result[0]["samples"]


def pictures_in(content):
    head, _, body = content["image"].partition(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


def previews(sent):
    return [content for event, content in sent if event == "exvideo.preview"]


def test_every_latent_frame_is_in_the_picture(either, sent):
    node(either, "animated")
    last = previews(sent)[-1]
    picture = pictures_in(last)

    assert picture.n_frames == last["frames"] == either.latent_frames
    assert picture.size == tuple(either.latent["samples"].shape[:-3:-1])
    assert (last["node"], last["display_node"], last["step"], last["steps"]) == ("7", "7", 3, 3)


def test_it_plays_as_fast_as_the_clip(run, cog, sent):
    node(run, "animated")
    node(cog, "animated")
    times = []
    for content in (previews(sent)[0], previews(sent)[-1]):
        picture = pictures_in(content)
        picture.seek(1)
        picture.load()
        times.append(picture.info["duration"])

    assert times == [33, 500]  # 30 frames a second, and 8 of which four are a latent frame


def test_off_computes_and_sends_nothing(either, sent, pack, monkeypatch):
    monkeypatch.setattr(pack.comfy_bridge.preview, "to_pictures", None)
    node(either, "off")

    assert previews(sent) == []


def test_the_clip_is_the_same_to_the_last_bit(either, sent):
    assert torch.equal(node(either, "animated"), node(either, "off"))


def test_without_a_server_it_is_no_reason_to_fail(either):
    assert node(either, "animated").isfinite().all()


def watcher(pack, monkeypatch, clock, steps, seconds_each):
    """A preview of a clip of 8 frames; making a picture takes so long."""
    adapter = pack.comfy_bridge.preview
    make = adapter.to_webp

    def slow(*arguments):
        clock.seconds += seconds_each
        return make(*arguments)

    monkeypatch.setattr(adapter, "to_webp", slow)
    return adapter.AnimatedPreview("7", pack.svd.model.SVDLatents(), 4.0, steps), torch.zeros(8, 4, 8, 8)


def test_short_steps_send_one_a_second_and_the_last(pack, monkeypatch, clock, sent):
    preview, clip = watcher(pack, monkeypatch, clock, 30, 0.0)
    for step in range(30):
        preview(step, clip)
        clock.seconds += 0.25

    assert [content["step"] for content in previews(sent)] == [1, 5, 9, 13, 17, 21, 25, 29, 30]


def test_pictures_that_take_long_are_made_in_a_thirtieth_of_the_time(pack, monkeypatch, clock, sent):
    preview, clip = watcher(pack, monkeypatch, clock, 1000, 0.3)
    for step in range(200):
        preview(step, clip)
        clock.seconds += 1.0

    assert 0.3 * len(previews(sent)) <= 0.04 * 200


def test_the_next_picture_goes_on_where_the_clip_was(pack, monkeypatch, clock, sent):
    preview, clip = watcher(pack, monkeypatch, clock, 30, 0.0)
    clip += torch.linspace(-1, 1, 8).view(8, 1, 1, 1)  # brighter and brighter
    for step, now in enumerate([100.0, 101.25]):
        clock.seconds = now
        preview(step, clip)

    assert [content["first"] for content in previews(sent)] == [0, 5]  # 1.25 s at 4 frames a second
    brightness = [picture_brightness(pictures_in(content)) for content in previews(sent)]
    assert [levels.index(min(levels)) for levels in brightness] == [0, 3]


def picture_brightness(picture):
    levels = []
    for frame in range(picture.n_frames):
        picture.seek(frame)
        levels.append(sum(picture.convert("L").resize((1, 1)).getdata()))
    return levels


def test_values_that_are_not_numbers_have_a_colour(pack):
    pictures = pack.comfy_bridge.preview.to_pictures(
        torch.full((2, 4, 3, 5), float("nan")), pack.svd.model.SVDLatents()
    )

    assert pictures.shape == (2, 3, 5, 3)
    assert (pictures == 0).all()


def test_a_latent_without_colours_has_no_preview(run, sent, monkeypatch):
    monkeypatch.setattr(run.model.model.latent_format, "latent_rgb_factors", None)
    node(run, "animated")

    assert previews(sent) == []


def test_the_demo_models_colours_are_those_of_its_decoder(pack):
    """And not those of Stable Diffusion's latents, which give another picture."""
    vae = load_svd(DEMO_CHECKPOINT, dtype=torch.float32, device="cpu").vae
    ramp = torch.linspace(-0.8, 0.8, 64)
    scene = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), -ramp.expand(64, 64)])[None]
    scene[..., 20:44, 16:40] = torch.tensor([0.7, -0.5, -0.6]).view(1, 3, 1, 1)
    with torch.inference_mode():
        latents = vae.encode(scene) * SCALING_FACTOR
        decoded = F.avg_pool2d(vae.decode(latents / SCALING_FACTOR), 8)
    latents_class, notes = pack.svd.model.SVDLatents, open_weights(DEMO_CHECKPOINT).notes
    kinds = (
        pack.comfy_bridge.loading.preview_latents(latents_class, notes, "demo"),
        latents_class(),
    )
    near = [correlation(pack.comfy_bridge.preview.to_pictures(latents, kind), decoded) for kind in kinds]

    assert near[0] > 0.95
    assert near[0] > near[1] + 0.05


def correlation(pictures_THWR, decoded_T3HW):
    pair = torch.stack([pictures_THWR.float().flatten(), decoded_T3HW.movedim(1, -1).flatten()])
    return float(torch.corrcoef(pair)[0, 1])


# Text about time and memory


def texts(sent):
    return [content for event, content in sent if event == "text"]


def test_the_node_says_what_a_run_takes_before_its_first_step(either, sent, pack, monkeypatch):
    from comfy import sample

    def refuse(*_, **__):
        raise RuntimeError("the first step")

    monkeypatch.setattr(sample, "sample_custom", refuse)
    with pytest.raises(RuntimeError, match="the first step"):
        node(either, "off", steps=9)

    (text,) = texts(sent)
    assert text.startswith("9 steps, about ")
    assert "GB beside" in text


def test_the_time_left_is_that_of_the_steps_done(either, sent, pack, monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(pack.comfy_bridge.estimates, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    plan = pack.comfy_bridge.sampling.Plan(either.model, 1.0, "euler", torch.zeros(11))
    progress = pack.comfy_bridge.estimates.ProgressText("7", plan, either.latent["samples"])
    for step in range(10):
        now.seconds += 60 if step == 0 else 20  # the first has loading in it
        progress(step, torch.zeros(1))

    lines = [text.splitlines()[0] for text in texts(sent)[1:]]
    assert lines[0] == "step 2 of 10, about 2.7 min left"
    assert lines[-1] == "10 steps in 4 min"


def test_guidance_doubles_the_estimate(either, pack, monkeypatch):
    estimates = pack.comfy_bridge.estimates
    monkeypatch.setattr(estimates, "of_time", lambda seconds: f"{seconds:.9g} s")
    plans = [pack.comfy_bridge.sampling.Plan(either.model, scale, "euler", torch.zeros(6)) for scale in (1.0, 3.0)]
    once, twice = (float(estimates.duration(plan, either.latent["samples"]).split()[3]) for plan in plans)

    assert twice == pytest.approx(2 * once)


def test_too_little_memory_says_what_to_lower_first(either, pack, monkeypatch):
    estimates = pack.comfy_bridge.estimates
    plan = pack.comfy_bridge.sampling.Plan(either.model, 1.0, "euler", torch.zeros(6))
    assert "lower" not in estimates.room(plan, either.latent["samples"])

    monkeypatch.setattr(estimates.model_management, "get_total_memory", lambda _: 1e6)
    assert "choose the preset low memory, then lower width and height" in estimates.room(plan, either.latent["samples"])
    saving = pack.comfy_bridge.low_memory.saving(either.model)
    plan = pack.comfy_bridge.sampling.Plan(saving, 1.0, "euler", torch.zeros(6))
    assert "lower width and height, then frames" in estimates.room(plan, either.latent["samples"])
    assert "preset" not in estimates.room(plan, either.latent["samples"])
