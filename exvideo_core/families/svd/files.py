"""Published files of Stable Video Diffusion and ExVideo's extension."""

from ... import demo_models
from ...hub.catalog import HUGGING_FACE, MODELSCOPE, SOURCES, Group, PublishedFile
from . import detect

SVD_XT = PublishedFile(
    key="svd-xt",
    name="svd_xt.safetensors",
    what="Stable Video Diffusion XT: 25 frames from a picture, and what ExVideo extends",
    kind=detect.CHECKPOINT,
    folder="checkpoints",
    path="svd_xt.safetensors",
    repositories={
        HUGGING_FACE: "stabilityai/stable-video-diffusion-img2vid-xt",
        MODELSCOPE: "AI-ModelScope/stable-video-diffusion-img2vid-xt",
    },
    num_bytes=9_560_000_000,
    license_to_accept=True,
)
EXVIDEO_SVD = PublishedFile(
    key="exvideo-svd-128f",
    name="ExVideo-SVD-128f-v1.fp16.safetensors",
    what="ExVideo's extension of SVD to 128 frames",
    kind=detect.EXTENSION,
    folder="exvideo",
    path="model.fp16.safetensors",
    repositories=dict.fromkeys(SOURCES, "ECNU-CILab/ExVideo-SVD-128f-v1"),
    num_bytes=1_670_000_000,
)
GROUPS = (Group(key="svd", title="picture to video", files=(SVD_XT, EXVIDEO_SVD)),)

# embedded in the package
DEMO_CHECKPOINT = demo_models.FOLDER / "svd_demo.safetensors"
DEMO_EXTENSION = demo_models.FOLDER / "svd_demo_extension_128f.safetensors"
