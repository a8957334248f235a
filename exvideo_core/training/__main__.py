"""`torchrun ... -m exvideo_core.training CONFIG.yaml`."""

import sys

from ..cli.train_command import main

sys.exit(main())
