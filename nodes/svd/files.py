"""The lists of SVD's loader."""

from ..comfy_bridge.file_lists import FileList
from ..host import EXVIDEO_FOLDER

CHECKPOINTS = FileList(folder="checkpoints", demos={"demo svd": "svd_demo.safetensors"})
EXTENSIONS = FileList(
    folder=EXVIDEO_FOLDER, demos={"demo 128 frames": "svd_demo_extension_128f.safetensors"}, none="none"
)
