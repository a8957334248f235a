"""Resume interrupted runs of ExVideo Sampler, with ComfyUI's own solvers and bit for bit the same result.

States are kept in the output folder, because ComfyUI empties its temp folder at start. A state's name is the
fingerprint of its run, so only the same run resumes from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.samplers
import comfyui_version
from comfy.cli_args import args
from comfy.ldm.modules.attention import optimized_attention
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...exvideo_core.errors import CheckpointError
from ...exvideo_core.runtime.fingerprint import code, environment, fingerprint, sampled
from ...exvideo_core.runtime.resume import Point, Recording, SavedRun
from ...exvideo_core.weights.safetensors_files import open_file
from .. import host
from . import step_reuse
from .sampling import Plan

_NODES = Path(__file__).resolve().parents[1]
_MOST = 4  # states kept in the folder
_ABANDONED = 60  # seconds after which a partly written file belongs to no living process
_AFTER = frozenset(("normalize", "contrast", "preview", "keep_latents", "resume"))  # inputs without effect on the steps
_CACHES = ("easycache", "lazycache")  # ComfyUI's wrappers with a cache of steps that cannot be saved
_MULTISTEP = ("dpmpp_2m",)  # solvers that need the previous step

Link = tuple[str, int]
Solver = Callable[..., Tensor]  # a function of comfy.k_diffusion.sampling


@dataclass(frozen=True)
class Run:
    """A run of the sampler, as it was queued.

    Attributes:
        prompt: the graph in API form; None if the node was called without one.
        node_id: of the sampler in it.
        given: other values that the result depends on.
    """

    prompt: Mapping[str, Any] | None
    node_id: str | None
    given: Mapping[str, Any]

    def __call__(self, plan: Plan) -> Any:
        """ComfyUI's sampler of a plan; one that saves its state, if the run can be identified."""
        stock = comfy.samplers.sampler_object(plan.solver)
        graph = above(self.prompt, self.node_id)
        if graph is None:
            return stock
        if _has_cache(plan.model):
            host.show_text(None, "cannot save EasyCache's cache: if this run is interrupted, it starts over")
            return stock
        what = fingerprint(graph=graph, given=self.given, plan=_facts(plan))
        path = host.unfinished_folder() / f"{what}.safetensors"
        make_room(path)
        notes = {"prompt": fingerprint(prompt=self.prompt)}
        run = SavedRun(path, notes=notes, tell=lambda text: host.show_text(self.node_id, text))

        def solve(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any, callback: Any, **options: Any) -> Tensor:
            memory = step_reuse.running(extra_args["model_options"]["transformer_options"])
            recording = run.begin(what, x, len(sigmas) - 1, {"reuse": memory})
            walk = _Walk(model, recording, callback, looks_back=plan.solver in _MULTISTEP)
            result = walk.to_the_end(stock.sampler_function, x, sigmas, extra_args=extra_args, **options)
            forget_others(path, notes)
            return result

        return comfy.samplers.KSAMPLER(solve, stock.extra_options, stock.inpaint_options)


class _Walk:
    """Wraps the model for a stock solver, so that the solver starts at a saved step and its states are saved.

    Solvers keep their history in local variables. A resumed one therefore starts a step early: its model call there
    returns the saved denoised latents, and the latents that it computes from them are replaced by the saved ones.
    """

    def __init__(self, model: Any, recording: Recording, callback: Any, *, looks_back: bool) -> None:
        self._model, self._recording, self._callback, self._looks_back = model, recording, callback, looks_back
        self._start = recording.start
        self._first = self._start.step - 1 if self._start else 0  # the solver's step 0
        self._done = self._first
        self._denoised: Tensor | None = None
        self._stopped: BaseException | None = None

    def to_the_end(self, solver: Solver, x: Tensor, sigmas: Tensor, **options: Any) -> Tensor:
        steps = len(sigmas) - 1
        if self._start is not None and self._start.step == steps:
            return self._start.x
        x = self._start.x if self._start else x
        result = solver(self, x, sigmas[self._first :], callback=self._report, **options)
        self._keep(result)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, x: Tensor, sigma: Tensor, **options: Any) -> Tensor:
        start = self._start
        if start is not None and self._done < start.step:
            self._done += 1
            return start.x if start.earlier is None else start.earlier
        if start is not None:
            x.copy_(start.x)
            self._start = None
        elif self._denoised is not None:
            self._keep(x)
        try:
            denoised = self._model(x, sigma, **options)
        except BaseException:  # Cancel, which ComfyUI also checks here, or out of memory
            self._recording.stop(self._point(x), in_step=True)
            raise
        self._denoised = denoised
        self._done += 1
        return denoised

    def _report(self, step: Mapping[str, Any]) -> None:
        """Call the callback within a step; a Cancel that it raises waits until the step is finished and saved."""
        if self._denoised is None:
            return
        try:
            self._callback({**step, "i": step["i"] + self._first})
        except BaseException as stopped:  # noqa: BLE001  raised at the end of the step
            self._stopped = stopped

    def _keep(self, x: Tensor) -> None:
        if self._stopped is not None:
            self._recording.stop(self._point(x), in_step=False)
            raise self._stopped
        self._recording.keep(self._point(x))

    def _point(self, x: Tensor) -> Point:
        return Point(self._done, x, self._denoised if self._looks_back else None)


# fingerprint of a run


def above(prompt: Mapping[str, Any] | None, node_id: str | None) -> str | None:
    """Hash of a node's inputs and of all nodes above it, without their ids; None if the graph is unknown."""
    known: dict[str, str] = {}

    def hashed(node: str) -> str:
        if node not in known:
            assert prompt is not None
            inputs = {
                name: [hashed(value[0]), value[1]] if _is_link(value) else value
                for name, value in prompt[node]["inputs"].items()
                if node != node_id or name not in _AFTER
            }
            known[node] = fingerprint(kind=prompt[node]["class_type"], inputs=inputs)
        return known[node]

    if prompt is None or node_id is None:
        return None
    try:
        return hashed(node_id)
    except (KeyError, TypeError, RecursionError):  # a node that was added while the graph ran
        return None


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def _facts(plan: Plan) -> dict[str, object]:
    """Facts that the graph does not hold: content of the files, and how the run is computed."""
    network = plan.model.model
    return {
        "levels": plan.levels,
        "solver": plan.solver,
        "guidance": plan.guidance,
        "class": type(network).__name__,
        "weights": sampled(_weights(plan.model)),
        "patches": [*_patches(plan.model.patches)],
        "formats": [network.get_dtype(), network.manual_cast_dtype],
        "place": environment(plan.model.load_device),
        "nodes": code(_NODES),
        "comfyui": comfyui_version.__version__,
        "attention": optimized_attention,
        "flags": [str(getattr(args, name, None)) for name in ("fast", "deterministic")],
    }


def _weights(model: ModelPatcher) -> Iterator[tuple[str, Tensor]]:
    """Weights of the network by name, without LoRAs that are merged into loaded ones."""
    network = model.model
    for name, weight in (*network.named_parameters(), *network.named_buffers()):
        kept = model.backup.get(name)
        yield name, weight if kept is None else kept.weight


def _patches(patches: Any, name: str = "") -> Iterator[object]:
    """Patches of LoRAs, with a few values of each tensor."""
    if isinstance(patches, Tensor):
        yield sampled([(name, patches)])
    elif isinstance(patches, Mapping):
        for key, value in patches.items():
            yield from _patches(value, f"{name}/{key}")
    elif isinstance(patches, list | tuple):
        for index, value in enumerate(patches):
            yield from _patches(value, f"{name}/{index}")
    elif hasattr(patches, "weights"):  # ComfyUI's adapter
        yield type(patches).__name__
        yield from _patches(patches.weights, name)
    else:
        yield name, patches


def _has_cache(model: ModelPatcher) -> bool:
    return any(key in _CACHES for kind in model.wrappers.values() for key in kind)


# the folder of states, which other servers may use, too


def make_room(path: Path) -> None:
    """Delete the oldest states, except this one, and files that a killed process was writing."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    others = sorted(_others(path), key=_age)
    for old in others[_MOST - 1 :]:
        _delete(old)
    for half in path.parent.glob(".*.part"):
        if _age(half) > _ABANDONED:
            _delete(half)


def forget_others(path: Path, notes: Mapping[str, str]) -> None:
    """After a run, delete the finished states of other prompts, whose videos are saved."""
    for other in _others(path):
        with suppress(CheckpointError, OSError):
            theirs = open_file(other).notes
            if theirs.get("step") == theirs.get("steps") and theirs.get("prompt") != notes["prompt"]:
                _delete(other)


def _others(path: Path) -> list[Path]:
    return [other for other in path.parent.glob("*.safetensors") if other != path]


def _age(path: Path) -> float:
    """Seconds between a file's last change and now, also if the clock was set back."""
    try:
        return abs(time.time() - path.stat().st_mtime)
    except OSError:  # deleted by another server
        return 0


def _delete(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
