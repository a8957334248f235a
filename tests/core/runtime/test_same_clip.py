"""The same seed, the same clip: what is equal to the last bit, across what, and how far apart the rest is."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import narrow_cogvideox
import narrow_svd
import numpy as np
import pytest
import same_clip
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from exvideo_core.video import read_video, save_video

ROUNDING = 3e-5  # of the size of the latents, in float32
MAKERS = {"svd": same_clip.svd, "cogvideox": same_clip.cogvideox}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("same_clip")
    narrow_svd.save_files(folder)
    narrow_cogvideox.save_files(folder)
    return folder


@pytest.fixture(params=list(MAKERS))
def make(request, files):
    return MAKERS[request.param](files)


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def is_same(found, expected):
    return same_clip.fingerprint(found) == same_clip.fingerprint(expected)


def test_bits_are_the_same_in_every_process_after_other_models_and_after_cancelled_runs(files, capsys):
    script = Path(same_clip.__file__)
    paths = os.pathsep.join(map(str, (script.parents[1], script.parent)))

    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": paths}
    command = [sys.executable, script, files, "cogvideox,svd"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process, threads(1):
        same_clip.main(files, "svd,cogvideox")  # here, where many tests have run
        printed = capsys.readouterr().out, process.communicate(timeout=120)[0]
    first, second = (dict(line.split() for line in text.splitlines()) for text in printed)

    assert len(set(first.values())) == 2
    assert second == first


def test_the_same_call_gives_the_same_bits_and_another_seed_others(make):
    first = make(seed=5)

    assert is_same(make(seed=5), first)
    assert not is_same(make(seed=6), first)


def test_more_threads_change_rounding_alone(make):
    with threads(1):
        alone = make()
    with threads(2):
        together, again = make(), make()

    assert is_same(again, together)
    assert relative(together.latents, alone.latents) <= ROUNDING


def test_deterministic_algorithms_change_nothing_and_find_nothing_to_refuse(make):
    """That setting also fills memory that nobody has written with NaN: none of it is read."""
    expected = make()
    torch.use_deterministic_algorithms(True)
    try:
        found = make()
    finally:
        torch.use_deterministic_algorithms(False)

    assert is_same(found, expected)


# Forward operations that PyTorch refuses on CUDA under `torch.use_deterministic_algorithms(True)` (its documentation).
REFUSED = {
    "bincount", "cumsum", "histc", "kthvalue", "max_unpool2d", "max_unpool3d", "median", "nanmedian", "nll_loss",
    "put", "scatter_reduce",
}  # fmt: skip
# Forward operations that add to the same place in an order of chance, where that is not asked for.
BY_CHANCE = {"bincount", "histc", "index_add", "index_reduce", "scatter_add", "scatter_reduce"}


class Names(TorchDispatchMode):
    """Of all operations that were computed."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func.__name__.partition(".")[0].strip("_"))
        return func(*args, **(kwargs or {}))


def test_no_operation_is_of_those_that_cuda_computes_by_chance_or_refuses(make):
    with Names() as names:
        make()
        narrow_cogvideox.build_text_encoder()(["a dog"])

    assert {"linear", "conv2d"} & names.seen or {"addmm", "convolution"} & names.seen
    assert not names.seen & (REFUSED | BY_CHANCE)
    assert "index_put" not in names.seen  # refused where it adds up


# weights at another place in memory


def moved(weight, offset):
    """The same values, so many bytes after a multiple of 64."""
    room = torch.empty(weight.numel() * weight.itemsize + 128, dtype=torch.uint8)
    start = -room.data_ptr() % 64 + offset
    place = room[start : start + weight.numel() * weight.itemsize].view(weight.dtype).view(weight.shape)
    return place.copy_(weight)


def test_only_products_of_a_single_row_depend_on_where_weights_are():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(128, 128, generator=generator)
    kernel = torch.randn(8, 8, 3, 3, generator=generator)
    rows, picture = torch.randn(100, 128, generator=generator), torch.randn(2, 8, 9, 9, generator=generator)
    for offset in (4, 8, 16, 32):
        assert torch.equal(F.linear(rows, moved(weight, offset)), F.linear(rows, moved(weight, 0)))
        assert torch.equal(F.conv2d(picture, moved(kernel, offset)), F.conv2d(picture, moved(kernel, 0)))
        found, expected = (F.linear(rows[:1], moved(weight, place)) for place in (offset, 0))
        assert torch.equal(found, expected) or offset % 16
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("offset", [0, 16, 4])
def test_weights_at_another_place_change_rounding_at_most(offset):
    def clip(place):
        pipeline = narrow_svd.build_pipeline(extension_frames=8)
        for weight in pipeline.unet.parameters():
            weight.data = moved(weight.data, place)
        return pipeline(torch.full((128, 128, 3), 0.5), **same_clip.SVD).latents

    found, expected = clip(offset), clip(0)

    assert torch.equal(found, expected) or offset % 16
    assert relative(found, expected) <= ROUNDING


# files


@pytest.fixture(params=["clip.mp4", "clip.mov", "clip.webp", "clip.webm"])
def saved_twice(request, tmp_path):
    frames = torch.rand(9, 48, 64, 3, generator=torch.Generator().manual_seed(0))
    (tmp_path / "again").mkdir()
    return [save_video(frames, folder / request.param, 8) for folder in (tmp_path, tmp_path / "again")]


def test_the_same_frames_are_the_same_file_but_for_a_number_that_webm_draws(saved_twice):
    first, again = (path.read_bytes() for path in saved_twice)
    differing = sum(one != other for one, other in zip(first, again, strict=True))

    assert differing <= (16 if saved_twice[0].suffix == ".webm" else 0)


def test_what_is_read_from_them_is_the_same(saved_twice):
    first, again = (list(read_video(path)) for path in saved_twice)

    assert len(first) == 9
    assert all(map(np.array_equal, first, again))
