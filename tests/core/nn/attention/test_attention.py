"""Attention backends, and the rule that chooses one."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from exvideo_core.errors import ExVideoError
from exvideo_core.nn.attention import BACKENDS, backends, choice, sdpa
from exvideo_core.nn.attention.choice import candidates
from exvideo_core.sampling.inputs import attention_named

HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32
FA3 = frozenset({"flash3", "sage", "xformers"})


def softmax_attention(q_BNLD: torch.Tensor, k_BNLD: torch.Tensor, v_BNLD: torch.Tensor) -> torch.Tensor:
    """The definition (arXiv:1706.03762, eq. 1)."""
    return (q_BNLD @ k_BNLD.transpose(-1, -2) / q_BNLD.shape[-1] ** 0.5).softmax(dim=-1) @ v_BNLD


@pytest.fixture
def fresh_choice() -> None:
    choice.choose.cache_clear()


def some_tensors(*shape: int, tokens: tuple[int, int] = (5, 7)) -> list[torch.Tensor]:
    return [torch.randn(*shape, length, 8) for length in (tokens[0], tokens[1], tokens[1])]


# Every backend


@pytest.mark.parametrize("name", ["sdpa", "auto", "sliced"])
def test_it_is_attention(name: str) -> None:
    q, k, v = some_tensors(2, 3)

    torch.testing.assert_close(BACKENDS[name](q, k, v), softmax_attention(q, k, v))


@pytest.mark.parametrize("queries", [1, 2, 3, 100])
def test_sliced_does_not_depend_on_the_slices(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = some_tensors(2, 3, tokens=(11, 7))
    seen = []

    def watch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen.append(q.shape[2])
        return F.scaled_dot_product_attention(q, k, v)

    monkeypatch.setattr(backends, "CHUNK_BYTES", queries * 2 * 3 * 7 * 4)
    monkeypatch.setattr(backends, "F", SimpleNamespace(scaled_dot_product_attention=watch))

    torch.testing.assert_close(backends.sliced(q, k, v), softmax_attention(q, k, v))
    assert max(seen) <= queries
    assert sum(seen) == 11


def test_batches_are_cut_at_the_grid_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = some_tensors(9, 2)
    seen = []

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen.append(len(q))
        return softmax_attention(q, k, v)

    monkeypatch.setattr(backends, "_has_grid", lambda _: True)
    monkeypatch.setattr(backends, "_MAX_ROWS", 9)
    out = backends.within_the_grid(attend)(q, k, v)

    torch.testing.assert_close(out, softmax_attention(q, k, v))
    assert max(seen) <= 4  # items of 2 heads
    assert sum(seen) == 9
    assert out.transpose(1, 2).is_contiguous()  # as kernels lay it out


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the limit is one of CUDA's grids")
@pytest.mark.parametrize("name", ["sdpa", "auto", "efficient"])
def test_more_rows_than_a_cuda_grid(name: str) -> None:
    q, k, v = torch.randn(3, 70000, 2, 4, 16, dtype=torch.float16, device="cuda")

    torch.testing.assert_close(BACKENDS[name](q, k, v)[-9:], sdpa(q[-9:], k[-9:], v[-9:]), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("name", ["flash", "flash3", "xformers", "sage"])
def test_a_package_that_is_not_installed_is_named_before_anything_is_loaded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, package, _ = backends.PACKAGES[name]
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ExVideoError, match=rf"{name}.* {package} is not installed.*choose attention 'sdpa'"):
        attention_named(name)
    with pytest.raises(ExVideoError, match="is not installed"):
        BACKENDS[name](*some_tensors(1, 1))


@pytest.mark.parametrize("name", ["cudnn", "flash", "flash3", "efficient", "xformers", "sage"])
def test_kernels_of_a_gpu_refuse_the_cpu_in_words(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in backends.PACKAGES:
        monkeypatch.setitem(sys.modules, backends.PACKAGES[name][0], SimpleNamespace())

    with pytest.raises(ExVideoError, match=rf"attention '{name}' runs .* on a GPU.*'sdpa', which runs everywhere"):
        BACKENDS[name](*some_tensors(1, 1))


@pytest.mark.parametrize("with_sums", [True, False])
def test_packages_that_want_tokens_first_get_views(with_sums: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = some_tensors(2, 3)
    seen = []

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> object:
        seen.extend([q, k, v])
        out = softmax_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
        return (out, "sums") if with_sums else out  # FlashAttention 3 did the former, and does the latter

    monkeypatch.setitem(sys.modules, "flash_attn_interface", SimpleNamespace(flash_attn_func=attend))
    monkeypatch.setattr(backends, "_check", lambda *_: None)

    torch.testing.assert_close(BACKENDS["flash3"](q, k, v), softmax_attention(q, k, v))
    assert [x.data_ptr() for x in seen] == [x.data_ptr() for x in (q, k, v)]


def test_sage_is_for_long_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def sageattn(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tensor_layout: str) -> torch.Tensor:
        calls.append((q.shape[2], tensor_layout))
        return q

    monkeypatch.setitem(sys.modules, "sageattention", SimpleNamespace(sageattn=sageattn))
    monkeypatch.setattr(backends, "_check", lambda *_: None)
    with torch.no_grad():
        BACKENDS["sage"](*some_tensors(1, 1, tokens=(1023, 1023)))
        BACKENDS["sage"](*some_tensors(1, 1, tokens=(1024, 1024)))

    assert calls == [(1024, "HND")]
    with pytest.raises(ExVideoError, match="no gradients"):
        BACKENDS["sage"](*(x.requires_grad_() for x in some_tensors(1, 1)))


# The rule


def on_nvidia(
    major: int, minor: int, dtype: torch.dtype = HALF, installed: frozenset[str] = frozenset()
) -> dict[str, Any]:
    return {"device": "cuda", "capability": (major, minor), "dtype": dtype, "installed": installed}


def name_of(value: dict[str, Any] | tuple[str, ...]) -> str:
    """The same in every process, for sets have no order."""
    if not isinstance(value, dict):
        return "-".join(value)
    return " ".join(str(sorted(fact)) if isinstance(fact, frozenset) else str(fact) for fact in value.values())


@pytest.mark.parametrize(
    ("facts", "first"),
    [
        ({"device": "cpu", "dtype": FULL}, ("sdpa",)),
        ({"device": "cpu", "dtype": BRAIN}, ("sdpa",)),
        ({"device": "meta", "dtype": HALF}, ("sdpa",)),
        ({"device": "mps", "dtype": HALF}, ("sliced",)),
        ({"device": "privateuseone", "dtype": HALF}, ("sliced",)),  # DirectML
        ({"device": "cuda", "dtype": HALF, "capability": (9, 4), "is_rocm": True}, ("sdpa", "sliced")),  # MI300
        (on_nvidia(6, 1), ("efficient", "sliced")),
        (on_nvidia(7, 5), ("efficient", "sliced")),
        (on_nvidia(7, 5, installed=FA3), ("efficient", "sliced")),
        (on_nvidia(8, 0, BRAIN), ("sdpa", "sliced")),
        (on_nvidia(8, 6), ("sdpa", "sliced")),
        (on_nvidia(8, 9, installed=FA3), ("sdpa", "sliced")),
        (on_nvidia(9, 0), ("cudnn", "sdpa", "sliced")),
        (on_nvidia(9, 0, BRAIN, FA3), ("flash3", "cudnn", "sdpa", "sliced")),
        (on_nvidia(9, 0, FULL, FA3), ("sdpa", "sliced")),
        (on_nvidia(10, 0), ("cudnn", "sdpa", "sliced")),
        (on_nvidia(10, 3), ("cudnn", "sdpa", "sliced")),
        (on_nvidia(12, 0), ("sdpa", "sliced")),
        (on_nvidia(12, 0, installed=FA3), ("sdpa", "sliced")),
    ],
    ids=name_of,
)
def test_the_rule(facts: dict[str, Any], first: tuple[str, ...]) -> None:
    assert candidates(**facts) == first


def test_the_rule_never_takes_an_approximation() -> None:
    devices = [on_nvidia(major, 0, installed=FA3) for major in range(5, 15)]

    assert not any("sage" in candidates(**facts) for facts in devices)
    assert {name for facts in devices for name in candidates(**facts)} <= BACKENDS.keys()


# The choice


@pytest.mark.usefixtures("fresh_choice")
def test_the_choice_is_made_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(3):
        choice.auto(*some_tensors(1, 2))

    assert caplog.messages == ["attention: sdpa (cpu, float32)"]


@pytest.mark.usefixtures("fresh_choice")
def test_candidates_that_fail_or_are_wrong_are_passed_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def absent(*_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("No available kernel.\nmany more lines")

    def not_a_number(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return sdpa(q, k, v) / 0 * 0

    monkeypatch.setattr(choice, "candidates", lambda *_, **__: ("cudnn", "flash3", "efficient", "sdpa", "sliced"))
    monkeypatch.setattr(choice, "_TRIALS", {"cudnn": absent})
    monkeypatch.setitem(BACKENDS, "flash3", lambda q, k, v: 1.01 * sdpa(q, k, v))
    monkeypatch.setitem(BACKENDS, "efficient", not_a_number)
    caplog.set_level(logging.INFO)

    assert choice.choose(torch.device("cpu"), FULL, 64) == "sdpa"
    assert caplog.messages[0] == "attention: cudnn is not usable here: No available kernel."
    assert caplog.messages[1].startswith("attention: flash3 is not usable here: it is wrong by 0.0")
    assert caplog.messages[2:] == [
        "attention: efficient is not usable here: it is wrong by nan",
        "attention: sdpa (cpu, float32)",
    ]


@pytest.mark.usefixtures("fresh_choice")
def test_the_last_candidate_is_taken_untried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "candidates", lambda *_, **__: ("cudnn", "sliced"))
    monkeypatch.setitem(BACKENDS, "sliced", None)

    assert choice.choose(torch.device("cpu"), FULL, 64) == "sliced"


def test_a_trial_leaves_the_random_numbers_alone() -> None:
    state = torch.get_rng_state()

    assert choice.why_not(sdpa, torch.device("cpu"), BRAIN, 64) is None
    assert torch.equal(torch.get_rng_state(), state)


def test_no_kernel_is_enabled_for_good_by_asking_for_one() -> None:
    q, k, v = some_tensors(1, 2)
    with pytest.raises(RuntimeError, match=r"No (viable|available) (backend|kernel)"):
        backends.by_kernels(["CUDNN_ATTENTION"], q, k, v)

    torch.testing.assert_close(sdpa(q, k, v), softmax_attention(q, k, v))
