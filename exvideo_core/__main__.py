"""`python -m exvideo_core` is the command `exvideo`."""

import sys

from .cli import main

sys.exit(main())
