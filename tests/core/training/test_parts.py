"""What a training run is made of, one part at a time."""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier

import pytest
import torch
from narrow_svd import save_files
from narrow_training import build_svd_target
from torch import nn

from exvideo_core.errors import ExVideoError
from exvideo_core.families.cogvideox.objective import noisy_timesteps
from exvideo_core.families.svd.config import UNetConfig
from exvideo_core.families.svd.motion_buckets import THRESHOLDS, motion_bucket
from exvideo_core.families.svd.training import trained_units
from exvideo_core.families.svd.unet import SVDUNet
from exvideo_core.runtime.distributed import World
from exvideo_core.training.dry_run import footprint, footprint_table
from exvideo_core.training.ema import EMA
from exvideo_core.training.engine import TorchEngine
from exvideo_core.training.loop import held_out_loss, summary
from exvideo_core.training.optimizers import learning_rate, make_optimizers
from exvideo_core.training.randomness import generator_of, shuffled
from exvideo_core.training.settings import OptimizerConfig, RunConfig

# footprint


@pytest.fixture(scope="module")
def full_size():
    with torch.device("meta"):
        return SVDUNet(UNetConfig(extension_frames=128))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_files(tmp_path_factory.mktemp("svd"))[0]


@pytest.mark.parametrize(("scope", "millions"), [("temporal", 833.0), ("new", 336.2)])
def test_so_many_numbers_of_the_published_size_are_trained(full_size, scope, millions):
    units = trained_units(full_size, scope)

    count = sum(p.numel() for unit in units.values() for p in unit.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.1)


def test_two_gpus_share_gradients_moments_and_average():
    alone, shared = (footprint(500, 1000, gpus, RunConfig(), OptimizerConfig()) for gpus in (1, 2))

    assert (shared["gradients"], shared["moments"], shared["average"]) == (2000, 4000, 2000)
    assert (alone["gradients"], alone["moments"], alone["average"]) == (4000, 8000, 4000)
    assert alone["frozen"] == shared["frozen"] == 1000  # bf16, whole
    assert alone["weights"] == 4000
    assert shared["weights"] == 4000 + 2000  # gathered, and the own part


def test_the_table_of_memory_adds_up():
    rows = footprint_table(1_500_000_000, 833_000_000, RunConfig(), OptimizerConfig()).splitlines()

    columns = list(zip(*([float(cell) for cell in row.split("|")[2:5]] for row in rows[2:]), strict=True))
    assert len(columns) == 3
    for *parts, total in columns:
        assert sum(parts) == pytest.approx(total, abs=0.03)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_the_footprint_is_what_the_engine_holds(checkpoint, average):
    target = build_svd_target(checkpoint, run={"average": average}, model={"trainable": "new"})
    run, optimizer = target.config.run, target.config.optimizer
    engine = TorchEngine(target.units, optimizer, run.average, World())
    engine.backward(iter([partial(target.loss, 0, 0)]), 1)
    engine.step(1.0)

    expected = footprint(target.num_frozen, sum(p.numel() for p in engine.weights.values()), 1, run, optimizer)

    held = engine.bytes_held()
    assert held["weights"] == expected["weights"]
    assert held["average"] == expected["average"]
    assert held["moments"] == expected["moments"] + 4 * len(engine.weights)  # AdamW's count of steps


# weights and numbers


def test_averages_are_swapped_in_and_out_again():
    weights = {"a": torch.randn(3, 4), "b": torch.randn(5)}
    average = EMA(weights, 0.9)
    for weight in weights.values():
        weight += 1
    average.update(weights)
    one, other = ({name: w.clone() for name, w in parts.items()} for parts in (weights, average.weights))

    average.swap(weights)
    assert all(torch.equal(weights[name], other[name]) for name in weights)
    average.swap(weights)
    assert all(torch.equal(weights[name], one[name]) for name in weights)
    assert all(torch.equal(average.weights[name], other[name]) for name in weights)


def test_every_clip_comes_once_each_time_around_in_another_order():
    orders = [shuffled(20, 3, around) for around in (-1, 0, 1, 2)] + [shuffled(20, 4, 0)]

    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len(set(orders)) == 5
    assert shuffled(20, 3, 1) == orders[2]


def test_motion_buckets_are_the_published_scripts():
    found = set()
    for i in range(40):
        noise_THW3 = torch.randn(6, 4, 5, 3, generator=generator_of(0, i))
        frames_THW3 = (127.5 + (i / 39) ** 2 * 120 * noise_THW3).clamp(0, 255).to(torch.uint8)
        pixels_THW3 = frames_THW3.double() / 255 * 2 - 1
        motion = float(pixels_THW3.std(dim=0).mean())
        found.add(bucket := motion_bucket(frames_THW3))
        assert bucket == next((i for i, begin in enumerate(THRESHOLDS) if begin > motion), len(THRESHOLDS))

    assert {0, 127} <= found
    assert len(found) > 20


@pytest.mark.parametrize("noisiness", [1.0, 2.0])
def test_timesteps_are_even_or_the_noisy_ones_come_more_often(noisiness):
    timesteps = noisy_timesteps(40_000, noisiness, generator_of(0, 0))

    assert (int(timesteps.min()), int(timesteps.max())) == (0, 999)
    below = torch.tensor([float((timesteps < 100 * i).float().mean()) for i in range(1, 10)])
    expected = 1 - (1 - torch.arange(0.1, 0.95, 0.1)) ** (1 / noisiness)
    torch.testing.assert_close(below, expected, rtol=0, atol=0.01)


# optimizers


def test_eight_bits_without_their_package_are_told_with_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)

    with pytest.raises(ExVideoError, match="adamw8bit needs the package torchao, which is not installed: pip install"):
        make_optimizers([nn.Parameter(torch.zeros(3))], OptimizerConfig(kind="adamw8bit"))


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_every_kind_of_optimizer_learns(kind):
    layer, wanted = nn.Linear(20, 24), nn.Linear(20, 24)
    x = torch.randn(64, 20, generator=generator_of(0, 0))
    config = OptimizerConfig(kind=kind, learning_rate=0.02, muon_rate=0.02, weight_decay=0)
    optimizers = make_optimizers(list(layer.parameters()), config)
    losses = []

    for _ in range(100):
        losses.append((layer(x) - wanted(x).detach()).square().mean())
        losses[-1].backward()
        optimizers.step(1.0)

    assert losses[-1] < losses[0] / 50
    assert (layer.bias - wanted.bias).abs().max() < 0.1  # by AdamW, whoever has the matrix


def test_the_rate_rises_and_at_hold_1_never_falls():
    rates = [learning_rate(step, 100, warmup=10, hold=1) for step in range(200)]

    assert rates[:10] == [pytest.approx((step + 1) / 10) for step in range(10)]
    assert rates[10:] == [1.0] * 190


def test_the_rate_falls_to_0_after_hold():
    rates = [learning_rate(step, 100, warmup=0, hold=0.6) for step in range(101)]

    assert rates[:61] == [1.0] * 61
    assert rates[61:] == [pytest.approx((100 - step) / 40) for step in range(61, 101)]


# held out


class Errors:
    """A target whose held-out errors are known."""

    base_frames = 2

    def __init__(self, num_held_out):
        self.num_held_out, self.calls = num_held_out, []

    def held_out_errors(self, item):
        self.calls.append(item)
        return torch.tensor([1.0, 10.0, 100.0]) * (item + 1)


@pytest.mark.parametrize(("items", "world"), [(5, 2), (4, 2), (1, 3), (7, 3)])
def test_several_processes_measure_what_one_does(items, world):
    barrier, parts = Barrier(world), [None] * world

    class Together(World):
        def gather(self, value):
            parts[self.rank] = value
            barrier.wait(timeout=10)
            return list(parts)

    targets = [Errors(items) for _ in range(world)]
    with ThreadPoolExecutor(world) as pool:
        places = [Together(rank=rank, size=world) for rank in range(world)]
        results = list(pool.map(held_out_loss, targets, places))

    assert results == [held_out_loss(Errors(items), World())] * world
    assert len({len(target.calls) for target in targets}) == 1  # they gather sharded weights together


def test_held_out_loss_is_told_apart_at_the_bases_length():
    by_frame = held_out_loss(Errors(3), World())

    assert summary(by_frame, Errors.base_frames) == {"all": 74.0, "within": 11.0, "beyond": 200.0}
    assert summary(by_frame, 5)["beyond"] == 74.0
