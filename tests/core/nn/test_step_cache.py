"""Step reuse, on networks whose answer is known."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import nullcontext

import pytest
import torch
from narrow_svd import noise
from torch import Tensor

from exvideo_core.nn.step_cache import Reuse, StepCache

X = noise(2, 5, 6)


class Network:
    """Adds `first(step, branch)` in the first block and `rest(step, branch)` in the others, and notes the latter."""

    def __init__(self, first: Callable[[float, Hashable], float], rest: Callable[[float, Hashable], float]) -> None:
        self.first, self.rest = first, rest
        self.computed: list[tuple[Hashable, float]] = []

    def __call__(self, cache: StepCache, step: float, branch: Hashable = "", x: Tensor = X) -> Tensor:
        x, memory = x.clone(), cache.branch(branch)
        memory.enter(x)
        x += self.first(step, branch)
        if (later := memory.predict(x)) is not None:
            return later
        self.computed.append((branch, step))
        x += self.rest(step, branch)
        memory.keep(x)
        return x


def run(network: Network, reuse: Reuse, steps: int, branches: tuple[Hashable, ...] = ("",)) -> tuple[StepCache, list]:
    cache, results = StepCache(reuse, steps), []
    for step in range(steps):
        cache.begin()
        results.append([network(cache, step, branch) for branch in branches])
    return cache, results


def computed_steps(network: Network) -> list[float]:
    return [step for _, step in network.computed]


def test_a_rest_that_changes_evenly_is_predicted_exactly() -> None:
    network = Network(lambda *_: 1.0, lambda step, _: 3 * step - 7)
    cache, results = run(network, Reuse(threshold=0.1, in_a_row=3), 12)

    assert computed_steps(network) == [0, 1, 5, 9, 11]
    assert (cache.reused_steps, str(cache)) == (7, "step reuse: 7 of 12 steps predicted")
    for step, (result,) in enumerate(results):
        torch.testing.assert_close(result, X + 1 + 3 * step - 7)


def test_the_first_block_is_always_the_current_one() -> None:
    network = Network(lambda step, _: 1 + step / 1000, lambda *_: 5.0)
    _, results = run(network, Reuse(threshold=0.1), 9)

    for step, (result,) in enumerate(results):
        torch.testing.assert_close(result, X + 6 + step / 1000)


@pytest.mark.parametrize(("threshold", "reused"), [(0.05, 0), (0.15, 3)])
def test_the_threshold_is_of_the_change_since_a_step_was_computed(threshold: float, reused: int) -> None:
    network = Network(lambda step, _: 1 + 0.07 * step, lambda *_: 5.0)  # 7 % or less in a step, up to 14 in two
    cache, _ = run(network, Reuse(threshold=threshold, in_a_row=1), 8)

    assert cache.reused_steps == reused


def test_a_change_that_creeps_is_noticed() -> None:
    network = Network(lambda step, _: 1.04**step, lambda *_: 5.0)
    run(network, Reuse(threshold=0.1, in_a_row=99), 14)

    assert computed_steps(network) == [0, 1, 4, 7, 10, 13]  # 1.04 ** 3 is above 1.1


@pytest.mark.parametrize(("first", "last"), [(1, 1), (4, 2), (2, 0)])
def test_first_and_last_steps_are_computed(first: int, last: int) -> None:
    network = Network(lambda *_: 1.0, lambda *_: 5.0)
    run(network, Reuse(threshold=0.1, in_a_row=99, first_steps=first, last_steps=last), 10)

    assert computed_steps(network) == [*range(first), *range(10 - last, 10)]


def test_branches_have_memories_of_their_own_and_follow_the_first() -> None:
    network = Network(
        lambda step, branch: 1.0 if branch == "text" else 2.0**step,  # the second's alone would be too much
        lambda step, branch: 3 * step if branch == "text" else -2 * step,
    )
    _, results = run(network, Reuse(threshold=0.1, in_a_row=1), 7, ("text", "none"))

    assert network.computed == [(branch, step) for step in (0, 1, 3, 5, 6) for branch in ("text", "none")]
    for step, (text, none) in enumerate(results):
        torch.testing.assert_close(text, X + 1 + 3 * step)
        torch.testing.assert_close(none, X + 2**step - 2 * step)


def test_a_branch_that_was_never_seen_is_computed() -> None:
    network = Network(lambda *_: 1.0, lambda *_: 5.0)
    cache, _ = run(network, Reuse(threshold=0.1), 4)
    cache.begin(4)

    network(cache, 4, "new")
    torch.testing.assert_close(network(cache, 4, "new", X), X + 6)
    assert ("new", 4) in network.computed


def test_another_size_is_computed() -> None:
    network = Network(lambda *_: 1.0, lambda *_: 5.0)
    cache, _ = run(network, Reuse(threshold=0.1, in_a_row=9), 4)
    larger = noise(3, 5, 6)

    for step in (4, 5):
        cache.steps = 99
        cache.begin(step)
        torch.testing.assert_close(network(cache, step, x=larger), larger + 6)
    assert 4 in computed_steps(network)


def test_solvers_that_look_twice_in_a_step() -> None:
    network = Network(lambda *_: 1.0, lambda step, _: 3 * step)
    cache = StepCache(Reuse(threshold=0.1, in_a_row=1), 6)
    for step in range(6):
        for _ in range(2):
            cache.begin(step)
            torch.testing.assert_close(network(cache, step), X + 1 + 3 * step)

    assert cache.reused_steps == 2
    assert computed_steps(network) == [0, 0, 1, 1, 3, 3, 5, 5]


@pytest.mark.parametrize(("free", "goes"), [(16 * X.nbytes, False), (16 * X.nbytes - 1, True)])
def test_memories_go_to_the_host_where_the_device_is_full(free: int, goes: bool) -> None:
    """On a device that keeps no numbers, so that a copy to the host cannot be."""
    network = Network(lambda *_: 1.0, lambda step, _: 3 * step)
    cache = StepCache(Reuse(threshold=0.1), 9, free=lambda device: free if device.type == "meta" else 0)
    cache.begin()
    expected = pytest.raises(NotImplementedError, match="meta") if goes else nullcontext()
    with expected:
        assert network(cache, 0, x=X.to("meta")).device.type == "meta"


def test_clips_of_one_batch_have_memories_of_their_own() -> None:
    branch = StepCache(Reuse(threshold=0.1), 9).branch("text")

    assert branch.part(0) is branch.part(0) is not branch.part(1)
    assert branch.part(0) is not branch


@pytest.mark.parametrize("settings", [{"threshold": 0.0}, {"threshold": 1.0}, {"threshold": 0.1, "in_a_row": 0}])
def test_impossible_settings_are_errors(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be (above|at least)"):
        Reuse(**settings)
