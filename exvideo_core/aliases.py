"""Names that moved, at the paths where earlier versions had them."""

from .families.cogvideox.geometry import GEOMETRY as COGVIDEOX
from .families.svd.geometry import GEOMETRY as SVD
from .video import frames


def keep_old_paths() -> None:
    """Make the old paths work."""
    moved = {
        frames: {
            "check_svd_size": SVD.check_size,
            "check_cogvideox_size": COGVIDEOX.check_size,
            "check_cogvideox_frames": COGVIDEOX.check_frames,
        },
    }
    for module, names in moved.items():
        for name, value in names.items():
            setattr(module, name, value)
