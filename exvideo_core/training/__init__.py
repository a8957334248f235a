"""Post-tuning: extending models to longer clips. The losses are here; the command is `exvideo train`."""

from .objectives import cogvideox_loss, svd_loss

__all__ = ["cogvideox_loss", "svd_loss"]
