"""`torchrun ... -m exvideo_core.training CONFIG.yaml` is `exvideo train CONFIG.yaml` in each process."""

import sys

from ..cli import main

sys.exit(main(["train", *sys.argv[1:]]))
