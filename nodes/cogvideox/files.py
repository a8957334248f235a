"""The lists of CogVideoX's loader and LoRA node."""

from ...exvideo_core.families.cogvideox import files
from ..comfy_bridge.file_lists import FileList

_DEMO = "demo cogvideox"

TRANSFORMERS = FileList(folder="diffusion_models", demos={_DEMO: files.DEMO_TRANSFORMER}, part="transformer")
TEXT_ENCODERS = FileList(folder="text_encoders", demos={_DEMO: files.DEMO_TEXT_ENCODER}, part="text_encoder")
VAES = FileList(folder="vae", demos={_DEMO: files.DEMO_VAE}, part="vae")
LORAS = FileList(folder="loras", demos={"demo 129 frames": files.DEMO_LORA})
