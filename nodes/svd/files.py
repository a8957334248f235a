"""The lists of SVD's loader."""

from ...exvideo_core.families.svd.files import DEMO_CHECKPOINT, DEMO_EXTENSION
from ..comfy_bridge.file_lists import FileList
from ..host import EXVIDEO_FOLDER

CHECKPOINTS = FileList(folder="checkpoints", demos={"demo svd": DEMO_CHECKPOINT})
EXTENSIONS = FileList(folder=EXVIDEO_FOLDER, demos={"demo 128 frames": DEMO_EXTENSION}, none="none")
