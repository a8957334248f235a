"""The embedded demo model: the published architectures and file formats, a few MB, to see everything work."""

from pathlib import Path

SVD = Path(__file__).with_name("svd_demo.safetensors")
SVD_EXTENSION = Path(__file__).with_name("svd_demo_extension_128f.safetensors")
