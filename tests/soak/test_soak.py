"""A server after many prompts holds what it held after the first. `tests/soak/run.py` is the long form of this."""

import random
import sys
import time
from pathlib import Path

import pytest

from host.comfyui_trees import NEWEST
from host.environment import Environment
from host.server import Server
from soak import prompts
from soak.session import OBSERVER, Session

pytestmark = pytest.mark.comfyui

ROOT = Path(__file__).resolve().parents[2]
FREE = {"unload_models": True, "free_memory": True}
MOST_UNFINISHED = 4  # states of runs that were cut off
GROWTH = 30_000_000  # bytes of a second round, at most


def small(job, steps=3):
    """The job on narrow models, for few frames in few steps."""
    for each in job.prompt.values():
        inputs = each["inputs"]
        if inputs.get("checkpoint") == prompts.SVD[0]:
            inputs |= dict(zip(("checkpoint", "extension"), prompts.NARROW_SVD, strict=True))
        if inputs.get("transformer") == prompts.DEMO_COG[0]:
            inputs |= dict(zip(prompts.PARTS, prompts.NARROW_COG, strict=True))
        if inputs.get("lora") == prompts.LORAS[prompts.DEMO_COG]:
            inputs["lora"] = prompts.LORAS[prompts.NARROW_COG]
        if "steps" in inputs:
            inputs["steps"] = steps
    return job


def cancelled(job, where):
    """Cancelled in that node: in a sampler that would take a minute, or an encoder that would take seconds."""
    job.cancel, job.expected = (where, 0.2), "interrupted"
    if where == "ExVideoSampler":
        return small(job, steps=1000)
    job.prompt["picture"]["inputs"]["image"] = f"{prompts.SIDES[0]}.png"
    job.prompt["many"] = prompts.node("RepeatImageBatch", image=["picture", 0], amount=1000)
    job.prompt["save"]["inputs"] |= {"images": ["many", 0], "format": "webm, av1", "quality": "best"}
    return small(job)


def left(job):
    job.is_left = True
    return job


def round_of(seed):
    """One of each kind, the same in every round but for the noise."""
    rng = random.Random(0)
    return [
        small(prompts.svd(rng, seed)),
        cancelled(prompts.svd(rng, seed), "ExVideoSampler"),
        small(prompts.cogvideox(rng, seed)),
        small(prompts.failing_cogvideox(rng, seed, "LoRA that does not fit")),
        cancelled(prompts.cogvideox(rng, seed), "ExVideoSampler"),
        left(small(prompts.svd_longer(rng, seed))),
        cancelled(prompts.svd(rng, seed), "ExVideoSave"),
        small(prompts.failing_svd(rng, seed, "checkpoint cut off")),
        small(prompts.refused(rng, seed)),
    ]


@pytest.fixture(scope="module")
def soaked(tmp_path_factory):
    """What the server looked like after each of two rounds, and after it was told to free everything."""
    tree = Environment(ROOT).tree(NEWEST)
    if not (tree / "main.py").exists():
        pytest.skip(f"no ComfyUI in {tree}: `python run.py test` puts one there")
    base = tmp_path_factory.mktemp("soak")
    prompts.place(base)
    packs = {"ComfyUI-ExVideo": ROOT, **OBSERVER}
    with Server(Path(sys.executable), tree, base, packs=packs) as server:
        session = Session(server)
        rounds = []
        for seed in (1, 2):
            done = [session.do(job) for job in round_of(seed)]
            # without the free memory that the C library keeps: it comes and goes with the order of things
            rounds.append({"done": done, "alive": session.alive(trim=True), **session.look()})
        session.client.post("/free", FREE)
        end = time.monotonic() + 10
        while session.alive()["loaded"] and time.monotonic() < end:
            time.sleep(0.2)
        yield *rounds, session.alive(), base, server.read_log()


def test_prompts_end_as_they_should(soaked):
    for each in (*soaked[0]["done"], *soaked[1]["done"]):
        assert each["outcome"] == each["expected"], each


@pytest.mark.parametrize("kind", ["threads", "files", "children"])
def test_a_second_round_leaves_no_more_than_the_first(soaked, kind):
    assert soaked[1][kind] == soaked[0][kind]


def test_memory_does_not_grow_in_a_second_round(soaked):
    assert soaked[1]["rss"] - soaked[0]["rss"] < GROWTH


def test_only_the_last_prompts_model_is_alive(soaked):
    for each in soaked[:2]:
        assert each["alive"]["objects"]["networks"] <= 1
        assert each["alive"]["objects"]["VAEs"] <= 1


def test_comfyui_finds_no_model_that_somebody_holds(soaked):
    assert "memory leak with model" not in soaked[4]


def test_nothing_is_alive_in_a_server_that_was_told_to_free_it(soaked):
    assert not any(soaked[2]["objects"].values()), soaked[2]["objects"]


def test_folders_grow_by_results_alone_and_few_unfinished_runs(soaked):
    base, done = soaked[3], [*soaked[0]["done"], *soaked[1]["done"]]
    files = [path for path in (base / "output").rglob("*") if path.is_file() and path.name != prompts.IN_THE_WAY]
    unfinished = [path for path in files if path.parent.name == "unfinished"]
    posters = [path for path in files if path.suffix == ".png"]
    clips = set(files) - set(unfinished) - set(posters)

    assert len(unfinished) <= MOST_UNFINISHED
    assert len(clips) == sum(each["outcome"] == "success" for each in done)
    assert {path.with_suffix("") for path in posters} <= {clip.with_suffix("") for clip in clips}
    assert not [path for path in (base / "temp").rglob("*") if path.is_file()]
