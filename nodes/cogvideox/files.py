"""The lists of CogVideoX's loader and LoRA node."""

from ..comfy_bridge.file_lists import FileList

_DEMO = "demo cogvideox"

TRANSFORMERS = FileList(
    folder="diffusion_models", demos={_DEMO: "cogvideox_demo_transformer.safetensors"}, part="transformer"
)
TEXT_ENCODERS = FileList(
    folder="text_encoders", demos={_DEMO: "cogvideox_demo_text_encoder.safetensors"}, part="text_encoder"
)
VAES = FileList(folder="vae", demos={_DEMO: "cogvideox_demo_vae.safetensors"}, part="vae")
LORAS = FileList(folder="loras", demos={"demo 129 frames": "cogvideox_demo_lora_129f.safetensors"})
