"""What is said before a run, against counts and against runs."""

import time
from dataclasses import replace

import pytest
import torch
from narrow_svd import TINY, noise
from PIL import Image

from benchmarks import count
from exvideo_core.cli import main
from exvideo_core.estimate import (
    Clip,
    Place,
    Speed,
    Work,
    counting,
    estimate_cogvideox,
    estimate_svd,
    jobs as estimated,
    probe,
    seconds,
)
from exvideo_core.estimate.speed import work_of
from exvideo_core.families.cogvideox import config as cog, estimate as cogvideox_estimate
from exvideo_core.families.cogvideox.files import DEMO_TEXT_ENCODER, DEMO_TRANSFORMER, DEMO_VAE
from exvideo_core.families.cogvideox.pipeline import load_cogvideox
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.families.svd import estimate as svd_estimate
from exvideo_core.families.svd.config import UNetConfig, VAEConfig
from exvideo_core.families.svd.files import DEMO_CHECKPOINT, DEMO_EXTENSION
from exvideo_core.families.svd.pipeline import load_svd
from exvideo_core.families.svd.vae import VAE, decode_windows

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SPEED = Speed(products=1e12, convolutions=5e11, attention=2e12, moved=1e11, call=1e-5, is_queued=False)
SVD = ("--checkpoint", DEMO_CHECKPOINT, "--extension", DEMO_EXTENSION, "--image", "none.png")
COGVIDEOX = (
    *("--transformer", DEMO_TRANSFORMER, "--vae", DEMO_VAE),
    *("--text-encoder", DEMO_TEXT_ENCODER, "--prompt", "none"),
)


@pytest.fixture
def speed(monkeypatch):
    """A device of known speed in place of this one."""
    monkeypatch.setattr(estimated, "probe", lambda device, dtype: SPEED)


@pytest.mark.parametrize(
    ("estimates", "config", "name"),
    [
        (svd_estimate.ESTIMATES, UNetConfig(extension_frames=128), "svd_512"),
        (svd_estimate.ESTIMATES, UNetConfig(), "svd_base_25f"),
        (cogvideox_estimate.ESTIMATES, cog.TransformerConfig(), "cog_129f"),
        (cogvideox_estimate.ESTIMATES, cog.TransformerConfig(), "cog_49f"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_call_is_counted_as_the_whole_network(estimates, config, name):
    """For CogVideoX from two of its 42 layers."""
    job = count.JOBS[name]
    whole = count.count_job(job)
    call = estimates.call(config, (job.cfg["frames"], job.cfg["h"], job.cfg["w"]), torch.float16)

    assert call.flops == whole.flops
    assert call.peak == pytest.approx(whole.peak, rel=0.01)
    assert work_of(call).moved == pytest.approx(work_of(whole).moved, rel=0.02)  # it is given the image as float32
    assert call.operations == pytest.approx(whole.operations, rel=0.01)


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_layers_that_are_alike_are_counted_once(layers):
    config = cog.TransformerConfig(layers=layers, width=128, hidden=512, text_dim=64)
    counted = cogvideox_estimate.count_call(config, (5, 8, 8), torch.float32)
    transformer = estimated.on_meta(lambda: CogVideoXTransformer(config), torch.float32)

    def call():
        transformer(torch.empty(1, 16, 5, 8, 8), torch.empty(1), torch.empty(1, 226, 64))

    assert counted == counting.count(call)


def test_work_adds_up_and_takes_its_time_at_each_speed():
    work = Work(products=1e12, attention=1e12) + Work(convolutions=1e12, moved=1e11, operations=1e5) * 2

    assert work == Work(products=1e12, convolutions=2e12, attention=1e12, moved=2e11, operations=2e5)
    assert work.flops == 4e12
    # half of the speed of large pieces, but for attention
    assert seconds(work, SPEED) == pytest.approx((1 + 4 + 2) / 0.5 + 0.5 + 2)
    assert seconds(work, replace(SPEED, is_queued=True)) == pytest.approx((1 + 4 + 2) / 0.5 + 0.5)
    assert seconds(work, replace(SPEED, is_queued=True, call=1.0)) == pytest.approx(2e5)


def test_a_device_is_measured_once_and_quickly():
    probe.cache_clear()
    start = time.perf_counter()
    measured = probe(CPU, torch.float32)

    assert time.perf_counter() - start < 3  # some 0.1 s where nothing else runs
    assert probe(CPU, torch.float32) is measured
    assert 1e8 < measured.products < 1e14
    assert 1e8 < measured.moved < 1e12
    assert 1e-7 < measured.call < 1e-2


def svd(**settings):
    clip = {"frames": 16, "height": 512, "width": 512, "steps": 10, "is_guided": True}
    place = {"device": CPU, "dtype": torch.float16}
    clip, place = ({name: settings.get(name, value) for name, value in usual.items()} for usual in (clip, place))
    place["is_streamed"] = settings.get("is_streamed", False)
    return estimate_svd(UNetConfig(), VAEConfig(), Clip(**clip), Place(**place))


def test_an_estimate_has_every_call_and_the_decoding(speed):
    guided, plain, short = svd(), svd(is_guided=False), svd(is_guided=False, steps=5)
    call = svd_estimate.count_call(UNetConfig(), (16, 64, 64), torch.float16).total_flops
    decoding = guided.work.flops - 20 * call

    assert guided.work.flops - plain.work.flops == pytest.approx(10 * call, rel=0.01)
    assert plain.work.flops - short.work.flops == pytest.approx(5 * call, rel=0.01)
    assert decoding == pytest.approx(3 * 21.3e12, rel=0.1)  # three windows of 8 frames
    assert guided.seconds == pytest.approx(seconds(guided.work, SPEED))


def test_memory_is_weights_and_the_larger_of_sampling_and_decoding(speed):
    estimate = svd()

    assert estimate.weights == pytest.approx(2 * 1.52e9 + 2 * 98e6, rel=0.02)  # of UNet and autoencoder
    assert estimate.decoding == pytest.approx(count.count_job(count.JOBS["svd_vae_512"]).peak, rel=0.01)
    assert estimate.peak == estimate.weights + max(estimate.sampling, estimate.decoding)
    assert svd(dtype=torch.float32).weights == 2 * estimate.weights


def test_streamed_weights_are_two_blocks_and_what_is_in_none(speed):
    whole, streamed = svd(), svd(is_streamed=True)

    assert streamed.weights < 0.25 * whole.weights
    assert streamed.sampling < whole.sampling  # skips wait in main memory too
    assert any("--stream" in hint for hint in svd(device=GPU).hints)
    assert not any("--stream" in hint for hint in svd(device=GPU, is_streamed=True).hints)
    assert not any("scale of 1" in hint for hint in svd(is_guided=False).hints)


def test_cogvideox_is_decoded_in_tiles_where_asked(speed):
    sizes = cog.TransformerConfig(layers=1), cog.VAEConfig()
    clip = Clip(frames=17, height=480, width=720, steps=1)
    whole, tiled = (
        estimate_cogvideox(*sizes, each, Place(device=CPU, dtype=torch.float16))
        for each in (clip, replace(clip, decode_tile=30))
    )

    assert tiled.decoding < 0.5 * whole.decoding
    assert tiled.work.flops > whole.work.flops  # tiles overlap
    assert tiled.sampling == pytest.approx(whole.sampling, rel=0.01)  # tables of positions are kept


@pytest.mark.parametrize("shape", [(3, 4, 4), (8, 2, 3), (21, 2, 2), (2, 130, 2)], ids=str)
def test_windows_are_those_that_svd_decodes(shape):
    done = []
    VAE(TINY.vae).decode(noise(shape[0], 4, *shape[1:]), lambda *progress: done.append(progress))

    assert len(done) == len(decode_windows(*shape))


def within(factor, told, run):
    start = time.process_time()
    run()
    return told / factor <= time.process_time() - start <= factor * told


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    probe.cache_clear()
    yield
    torch.set_num_threads(threads)
    probe.cache_clear()


def test_svd_s_demo_takes_about_as_long_as_estimated(one_thread):
    pipeline = load_svd(DEMO_CHECKPOINT, DEMO_EXTENSION, device=CPU)
    clip = Clip(frames=16, height=128, width=128, steps=6, is_guided=False)
    told = estimate_svd(pipeline.unet.config, pipeline.vae.config, clip, Place(device=CPU, dtype=torch.float32))

    def run():
        size = {"num_frames": clip.frames, "height": clip.height, "width": clip.width}
        scales = {"min_guidance_scale": 1.0, "max_guidance_scale": 1.0}
        pipeline(Image.new("RGB", (128, 128)), num_inference_steps=clip.steps, **size, **scales)

    assert within(3, told.seconds, run)


def test_cogvideox_s_demo_takes_about_as_long_as_estimated(one_thread):
    pipeline = load_cogvideox(DEMO_TRANSFORMER, vae=DEMO_VAE, device=CPU)
    clip = Clip(frames=17, height=96, width=96, steps=8)
    told = estimate_cogvideox(
        pipeline.transformer.config, pipeline.vae.config, clip, Place(device=CPU, dtype=torch.float32)
    )
    text, nothing = noise(2, 1, 226, pipeline.transformer.config.text_dim)

    def run():
        size = {"num_frames": clip.frames, "height": clip.height, "width": clip.width}
        pipeline(prompt_embeds=text, negative_prompt_embeds=nothing, num_inference_steps=clip.steps, **size)

    assert within(3, told.seconds, run)


@pytest.mark.parametrize(
    "command",
    [
        ("svd", *SVD, "--frames", "9", "--width", "128", "--height", "128"),
        ("cogvideox", *COGVIDEOX, "--frames", "9", "--width", "96", "--height", "96"),
    ],
    ids=lambda command: command[0],
)
def test_the_command_line_says_it_and_makes_nothing(command, capsys, monkeypatch, tmp_path, speed):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", *map(str, command), "--device", "cpu", "--estimate"]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert [line.split()[0] for line in lines[:4]] == ["operations", "time", "memory", "lower"]
    assert not list(tmp_path.iterdir())


def test_the_command_line_refuses_what_no_clip_can_be(capsys):
    assert main(["generate", "svd", *map(str, SVD), "--frames", "129", "--estimate"]) == 2
    assert "129 frames are not possible" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("estimates", "config", "weights", "clip", "sizes"),
    [
        (
            svd_estimate.ESTIMATES,
            UNetConfig(extension_frames=128),
            7.4e9,
            "128 frames of 512x512",
            "(19.6 PFLOP), 7.4 GB for weights and 4.1 GB beside them",
        ),
        (
            cogvideox_estimate.ESTIMATES,
            cog.TransformerConfig(),
            22.3e9,
            "129 frames of 720x480",
            "(146 PFLOP), 22 GB for weights and 1.5 GB beside them",
        ),
    ],
    ids=["svd", "cogvideox"],
)
def test_a_loaded_model_s_line_is_counted_once(estimates, config, weights, clip, sizes):
    line, first = timed(estimated.usual_line, estimates, config, torch.float32, CPU, weights)
    again, second = timed(estimated.usual_line, estimates, config, torch.float32, CPU, weights)

    assert line == again
    assert first < 10  # one to two seconds of a processor that has nothing else to do
    assert second < 0.1
    assert line.startswith(f"{clip} in 50 steps take about ")
    assert line.endswith(sizes)


def timed(function, *args):
    """Its result, and seconds of CPU time."""
    start = time.process_time()
    return function(*args), time.process_time() - start


@pytest.mark.parametrize(
    ("duration", "text"),
    [(0.5, "0.5 s"), (90, "90 s"), (125, "2.1 min"), (3600, "60 min"), (9000, "2.5 h"), (468000, "130 h")],
)
def test_durations_are_read_easily(duration, text):
    assert estimated.of_time(duration) == text
