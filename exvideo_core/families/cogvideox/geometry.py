"""Frame and size rules of CogVideoX: latent cells of 8x8 pixels and 4 frames, which are patched 2x2.

The VAE decodes two latent frames at a time after the first, so that only clips of 8 k + 1 frames come back as long.
"""

from ...video.geometry import Geometry

GEOMETRY = Geometry(
    title="CogVideoX",
    spatial_factor=8,
    temporal_factor=4,
    size_multiple=16,
    min_size=16,
    frame_multiple=8,
    min_frames=9,
)
