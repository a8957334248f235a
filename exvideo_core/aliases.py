"""Import paths that the documentation of version 0.2.0 showed: they keep working, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType

from . import estimate
from .families.cogvideox.estimate import estimate_cogvideox
from .families.cogvideox.geometry import GEOMETRY as COGVIDEOX
from .families.svd.estimate import estimate_svd
from .families.svd.geometry import GEOMETRY as SVD
from .video import frames

# names that stay importable from a shared module, which imports no family
_KEPT = {
    estimate: {"estimate_svd": estimate_svd, "estimate_cogvideox": estimate_cogvideox},
    frames: {
        "check_svd_size": SVD.check_size,
        "check_cogvideox_size": COGVIDEOX.check_size,
        "check_cogvideox_frames": COGVIDEOX.check_frames,
    },
}
# modules that moved, and where each of its names is now: module, name
_MOVED = {
    "step_cache": {"Reuse": ("nn.step_cache", "Reuse")},
    "models.fp8": {name: ("nn.fp8", name) for name in ("store_in_fp8", "multiply_in_fp8")},
    "models.svd.vae": {"SCALE": ("families.svd.vae", "SCALING_FACTOR")},
    "models.cogvideox.vae": {"SCALE": ("families.cogvideox.vae", "SCALING_FACTOR")},
    "training.evaluate": {"measure": ("evaluation.measures", "measure")},
    "checkpoint.save": {
        "save_extension": ("families.svd.save", "save_extension"),
        "save_svd": ("families.svd.save", "save_svd"),
        "write_weights": ("weights.write", "write_weights"),
    },
}


class _OldModule(ModuleType):
    """A module that looks its names up where they are now, when they are asked for."""

    def __getattr__(self, name: str) -> object:
        package, _, path = self.__name__.partition(".")
        if name not in _MOVED[path]:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        module, current = _MOVED[path][name]
        warnings.warn(
            f"{self.__name__}.{name} is {package}.{module}.{current} now; see docs/python.md for public names",
            DeprecationWarning,
            stacklevel=2,
        )
        value: object = getattr(importlib.import_module(f"{package}.{module}"), current)
        return value


def keep_old_paths() -> None:
    """Make the old paths importable where this package has its own name, as outside of ComfyUI."""
    package = __name__.removesuffix(".aliases")
    if "." not in package:
        for path in _MOVED:
            sys.modules[f"{package}.{path}"] = _OldModule(f"{package}.{path}")
    for module, names in _KEPT.items():
        for name, value in names.items():
            setattr(module, name, value)
