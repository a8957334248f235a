"""What can come of a fault, and counts of it."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

# Good ends, as the table words them.
SAME = "same result, bit for bit"
ROUNDED = "same result within rounding"
TILED = "result in tiles"
SAID = "error that says what to do"
STOPPED = "stopped there"
# Bad ones: each is a column of the table, and must be 0.
POISONED = "poisoned models"
HALF = "half files"
LOST = "lost latents"
OTHER = "other harm"  # a wrong result, an error that says nothing, memory or a process that stays
HARM = (POISONED, HALF, LOST, OTHER)

_ROUNDING = 1e-3  # of the largest value; random weights amplify what float32 rounds


@dataclass
class Count:
    """What came of all injections of one fault."""

    injections: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    harm: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)  # of harm, for whoever has to mend it

    def add(self, end: str) -> None:
        """One more injection that ended well."""
        self.injections += 1
        self.ends[end] += 1

    def add_harm(self, kind: str, example: str) -> None:
        """Something that must not be; beside the injection's end."""
        self.harm[kind] += 1
        self.examples.append(f"{kind}: {example}")


@dataclass(frozen=True)
class Fault:
    """One row of the table.

    Attributes:
        name: what goes wrong.
        where: what it goes wrong in.
        inject: does it, at every place or at every so-many-th of them, and counts.
    """

    name: str
    where: str
    inject: Callable[[int], Count]


def compared(found: list[Tensor], wanted: list[Tensor]) -> str | None:
    """Which of the good ends a result is; None for a wrong one."""
    if [each.shape for each in found] != [each.shape for each in wanted]:
        return None
    if all(map(torch.equal, found, wanted)):
        return SAME
    far = max(float((one - other).abs().max() / other.abs().max()) for one, other in zip(found, wanted, strict=True))
    return ROUNDED if far < _ROUNDING else None


def end_of(error: Exception) -> str | None:
    """The good end that an error is: one for people, with something to do in it; None for any other."""
    text = str(error)
    # by name: ComfyUI imports the pack, and so this class, under a name of its own
    is_for_people = any(kind.__name__ == "ExVideoError" for kind in type(error).__mro__)
    return SAID if is_for_people and any(word in text for word in _TO_DO) else None


_TO_DO = ("Load ", "Lower ", "lower ", "Choose ", "choose ", "End ", "end ", "Make room", "Install ", "check ", "again")


@contextmanager
def nothing_stays(count: Count, what: str) -> Iterator[None]:
    """Count it as harm if more tensors live after it than before."""
    gc.collect()
    before = _live_bytes()
    yield
    gc.collect()
    if (after := _live_bytes()) > before:
        count.add_harm(OTHER, f"{what}: {after - before} bytes of tensors stay")


def _live_bytes() -> int:
    with torch.inference_mode(False):
        alive = [each for each in gc.get_objects() if type(each) in (Tensor, nn.Parameter)]
        storages = {
            each.untyped_storage()._cdata: each.untyped_storage().nbytes() for each in alive if not each.is_meta
        }
    return sum(storages.values())


def state_of(*networks: nn.Module) -> list[object]:
    """What a fault may not change in a network: weights and where they are, hooks, and what it is set to."""
    state: list[object] = []
    for network in networks:
        for name, module in network.named_modules():
            plain = {key: value for key, value in vars(module).items() if isinstance(value, int | str | float)}
            plain = {key: value for key, value in plain.items() if not key.startswith("comfy_")}  # its book-keeping
            plain.pop("comfy_patched_weights", None)  # ComfyUI's note whether a model is loaded, which it may undo
            hooks = [len(module._forward_hooks), len(module._forward_pre_hooks)]
            state.append((name, type(module), plain, hooks))
        state += [(name, each.data_ptr(), each.dtype) for name, each in network.named_parameters()]
    return state
