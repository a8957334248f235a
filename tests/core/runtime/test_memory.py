"""Networks that visit a device and go home again."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from exvideo_core.runtime.memory import free_bytes, num_bytes, temporarily_on

CPU = torch.device("cpu")
ROOM_TO_WORK = 2**30


class VisitError(Exception):
    """What happens during a visit."""


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def places(network: nn.Module) -> list[int]:
    return [weight.data_ptr() for weight in (*network.parameters(), *network.buffers())]


@pytest.fixture
def moving_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """As between two devices, which a test without GPU does not have."""
    monkeypatch.setattr(Tensor, "to", lambda weight, _device: weight.clone())


@pytest.mark.usefixtures("moving_copies")
def test_a_visitor_is_elsewhere_and_then_where_it_was(network: nn.Module) -> None:
    home, values = places(network), [weight.clone() for weight in network.state_dict().values()]

    with torch.inference_mode(), temporarily_on(network, CPU, math.inf):
        assert not set(places(network)) & set(home)

    assert places(network) == home
    assert all(torch.equal(*pair) for pair in zip(network.state_dict().values(), values, strict=True))
    network(torch.ones(2, 3)).sum().backward()  # and may still be trained


@pytest.mark.usefixtures("moving_copies")
def test_a_visitor_goes_home_after_an_error(network: nn.Module) -> None:
    home = places(network)

    with pytest.raises(VisitError), temporarily_on(network, CPU, math.inf):
        raise VisitError

    assert places(network) == home


@pytest.mark.usefixtures("moving_copies")
@pytest.mark.parametrize(("missing", "is_home"), [(0, False), (1, True)])
def test_without_room_nobody_moves(missing: int, is_home: bool, network: nn.Module) -> None:
    home = places(network)

    with temporarily_on(network, CPU, num_bytes(network) + ROOM_TO_WORK - missing):
        assert (places(network) == home) is is_home


def test_a_visitor_for_whom_memory_ends_stays_at_home(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    home, moved = places(network), []

    def move(weight: Tensor, _device: torch.device) -> Tensor:
        moved.append(weight)
        if len(moved) == 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return weight.clone()

    monkeypatch.setattr(Tensor, "to", move)
    with temporarily_on(network, CPU, math.inf):
        assert len(moved) == 3
        assert places(network) == home

    assert places(network) == home


def test_every_weight_counts_once() -> None:
    shared = nn.Linear(3, 4, bias=False)

    assert num_bytes(nn.Sequential(shared, shared).half()) == 3 * 4 * 2


def test_main_memory_is_not_counted() -> None:
    assert free_bytes(CPU) == math.inf
