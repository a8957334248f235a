"""Names that moved, at the paths where earlier versions had them."""

from . import estimate
from .families.cogvideox.estimate import estimate_cogvideox
from .families.cogvideox.geometry import GEOMETRY as COGVIDEOX
from .families.svd.estimate import estimate_svd
from .families.svd.geometry import GEOMETRY as SVD
from .video import frames

_MOVED = {
    estimate: {"estimate_svd": estimate_svd, "estimate_cogvideox": estimate_cogvideox},
    frames: {
        "check_svd_size": SVD.check_size,
        "check_cogvideox_size": COGVIDEOX.check_size,
        "check_cogvideox_frames": COGVIDEOX.check_frames,
    },
}


def keep_old_paths() -> None:
    """Make the old paths work."""
    for module, names in _MOVED.items():
        for name, value in names.items():
            setattr(module, name, value)
