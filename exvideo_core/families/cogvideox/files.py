"""Published files of CogVideoX-5B and ExVideo's LoRA."""

from ... import demo_models
from ...hub.catalog import HUGGING_FACE, MODELSCOPE, SOURCES, Group, PublishedFile
from . import detect

_COGVIDEOX_5B = {HUGGING_FACE: "THUDM/CogVideoX-5b", MODELSCOPE: "ZhipuAI/CogVideoX-5b"}

COGVIDEOX_TRANSFORMER = tuple(
    PublishedFile(
        key=f"cogvideox-5b-transformer-{part}",
        name=f"CogVideoX-5b-transformer-0000{part}-of-00002.safetensors",
        what=f"CogVideoX-5B's transformer, {which} of two files: 49 frames from a sentence, and what ExVideo extends",
        kind=detect.TRANSFORMER,
        folder="diffusion_models",
        path=f"transformer/diffusion_pytorch_model-0000{part}-of-00002.safetensors",
        repositories=_COGVIDEOX_5B,
        num_bytes=num_bytes,
    )
    for part, which, num_bytes in ((1, "first", 9_925_000_000), (2, "second", 1_215_000_000))
)
COGVIDEOX_VAE = PublishedFile(
    key="cogvideox-5b-vae",
    name="CogVideoX-5b-vae.safetensors",
    what="CogVideoX's VAE",
    kind=detect.VAE,
    folder="vae",
    path="vae/diffusion_pytorch_model.safetensors",
    repositories=_COGVIDEOX_5B,
    num_bytes=431_000_000,
)
T5_XXL = PublishedFile(
    key="t5xxl-fp16",
    name="t5xxl_fp16.safetensors",
    what="T5 XXL, the text encoder of CogVideoX, FLUX and SD3",
    kind=detect.TEXT_ENCODER,
    folder="text_encoders",
    path="t5xxl_fp16.safetensors",
    repositories={HUGGING_FACE: "comfyanonymous/flux_text_encoders", MODELSCOPE: "AI-ModelScope/flux_text_encoders"},
    num_bytes=9_790_000_000,
)
EXVIDEO_COGVIDEOX = PublishedFile(
    key="exvideo-cogvideox-129f",
    name="ExVideo-CogVideoX-LoRA-129f-v1.safetensors",
    what="ExVideo's LoRA that extends CogVideoX-5B to 129 frames",
    kind=detect.LORA,
    folder="loras",
    path="ExVideo-CogVideoX-LoRA-129f-v1.safetensors",
    repositories=dict.fromkeys(SOURCES, "ECNU-CILab/ExVideo-CogVideoX-LoRA-129f-v1"),
)
GROUPS = (
    Group(
        key="cogvideox",
        title="sentence to video",
        files=(*COGVIDEOX_TRANSFORMER, COGVIDEOX_VAE, T5_XXL, EXVIDEO_COGVIDEOX),
    ),
    Group(
        key="cogvideox-5b-transformer",
        title="CogVideoX-5b-transformer",
        files=COGVIDEOX_TRANSFORMER,
        is_sharded=True,
    ),
)

# embedded in the package
DEMO_TRANSFORMER = demo_models.FOLDER / "cogvideox_demo_transformer.safetensors"
DEMO_TEXT_ENCODER = demo_models.FOLDER / "cogvideox_demo_text_encoder.safetensors"
DEMO_VAE = demo_models.FOLDER / "cogvideox_demo_vae.safetensors"
DEMO_LORA = demo_models.FOLDER / "cogvideox_demo_lora_129f.safetensors"
