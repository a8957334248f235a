"""`torchrun ... -m exvideo_core.training CONFIG.yaml`."""

import sys

from .command import main

sys.exit(main())
