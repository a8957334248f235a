"""ExVideo Speed: steps that change little are predicted, on both models."""

import logging
from types import SimpleNamespace

import pytest
import torch
from in_comfyui import relative

STEPS = 12


@pytest.fixture(params=["svd", "cogvideox"])
def either(request):
    """A run of one of the two models."""
    return request.getfixturevalue({"svd": "run", "cogvideox": "cog"}[request.param])


def faster(either, threshold=0.99, in_a_row=2, first_steps=2, last_steps=1, model=None):
    node = either.pack.speed.ExVideoSpeed
    return node.execute(model or either.model, threshold, in_a_row, first_steps, last_steps).result[0]


def said(caplog):
    return [line for line in caplog.messages if "step reuse" in line]


def test_steps_are_predicted_and_it_is_still_that_clip(either, caplog):
    caplog.set_level(logging.INFO)
    exact = either.sample(steps=STEPS)
    found = either.sample(faster(either), steps=STEPS)

    assert 0 < relative(found, exact) < 1
    (line,) = said(caplog)
    assert f"of {STEPS} steps predicted" in line
    assert " 0 of" not in line


def test_the_network_below_the_first_block_is_left_out(either):
    network = either.model.model.diffusion_model
    last = network.output_blocks[-1][0] if hasattr(network, "output_blocks") else network.transformer_blocks[-1]
    calls = []
    hook = last.register_forward_hook(lambda *_: calls.append(1))
    try:
        either.sample(steps=STEPS)
        exact = len(calls)
        either.sample(faster(either), steps=STEPS)
    finally:
        hook.remove()

    assert len(calls) - exact < exact


def test_every_run_starts_without_memory_and_leaves_none(either):
    model = faster(either)
    first, again = either.sample(model, steps=STEPS), either.sample(model, steps=STEPS)

    assert torch.equal(first, again)
    (options,) = [value for name, value in model.model_options["transformer_options"].items() if "exvideo" in name]
    assert type(options).__name__ == "Reuse"  # settings, and not the memory of a run


def test_the_given_model_stays_exact(either):
    exact = either.sample(steps=4)
    either.sample(faster(either), steps=4)

    assert torch.equal(either.sample(steps=4), exact)


def test_zero_is_off(either):
    assert faster(either, threshold=0.0) is either.model


def test_the_last_of_two_nodes_counts(either, caplog):
    caplog.set_level(logging.INFO)
    either.sample(faster(either, first_steps=STEPS, model=faster(either)), steps=STEPS)

    assert said(caplog) == [f"ExVideo: step reuse: 0 of {STEPS} steps predicted"]


def test_levels_between_two_steps_belong_to_the_first(pack):
    levels = torch.tensor([700.0, 30.0, 2.0, 0.1, 0.0])
    step = pack.comfy_bridge.step_reuse.step_of

    assert [step(levels, level.expand(3)) for level in levels[:4]] == [0, 1, 2, 3]
    assert step(levels, torch.tensor([29.9999])) == 1  # as rounded by a solver
    assert step(levels, torch.tensor([7.0])) == 1


def test_a_solver_that_looks_twice_in_a_step(cog, caplog):
    caplog.set_level(logging.INFO)
    exact = cog.ksampler(sampler="heun", steps=8)

    assert 0 < relative(cog.ksampler(faster(cog), sampler="heun", steps=8), exact) < 1
    assert "of 8 steps predicted" in said(caplog)[0]


def test_both_prompts_in_one_batch_or_one_by_one(either, monkeypatch):
    model = faster(either)
    together = either.sample(model, steps=STEPS)
    monkeypatch.setattr(type(model.model), "memory_required", lambda *_, **__: 1e18)  # too much for both at once

    assert relative(either.sample(model, steps=STEPS), together) < 1e-4


def test_with_context_windows(run):
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    options = {"context_schedule": "standard_static", "fuse_method": "pyramid", "freenoise": False, "dim": 0}
    options |= {"context_stride": 1, "closed_loop": False}
    windows = ContextWindowsManualNode.execute(run.model, 4, 2, **options).result[0]
    exact = run.sample(windows, steps=STEPS)
    found = run.sample(faster(run, threshold=0.2, model=windows), steps=STEPS)

    assert 0 < relative(found, exact) < 1


def test_other_models_are_sent_to_easycache(run, pack):
    other = SimpleNamespace(model=SimpleNamespace(diffusion_model=torch.nn.Identity()))

    with pytest.raises(pack.errors.ExVideoError, match="EasyCache"):
        faster(run, model=other)
