"""Frame and size rules of Stable Video Diffusion: latent cells of 8x8 pixels, a latent frame for each frame."""

from ...video.geometry import Geometry

GEOMETRY = Geometry(title="SVD", spatial_factor=8, size_multiple=8, min_size=128, min_frames=2)
