"""`torchrun ... -m exvideo_core.training CONFIG.yaml`."""

import sys

from ..cli.train import main

sys.exit(main())
