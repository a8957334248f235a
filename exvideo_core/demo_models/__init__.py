"""The embedded demo models: the published architectures and file formats, a few MB, to see everything work."""

from pathlib import Path

SVD = Path(__file__).with_name("svd_demo.safetensors")
SVD_EXTENSION = Path(__file__).with_name("svd_demo_extension_128f.safetensors")
COGVIDEOX_TRANSFORMER = Path(__file__).with_name("cogvideox_demo_transformer.safetensors")
COGVIDEOX_TEXT_ENCODER = Path(__file__).with_name("cogvideox_demo_text_encoder.safetensors")
COGVIDEOX_VAE = Path(__file__).with_name("cogvideox_demo_vae.safetensors")
COGVIDEOX_LORA = Path(__file__).with_name("cogvideox_demo_lora_129f.safetensors")
