"""The embedded demo models: published architectures and file formats in a few MB, usable without a download.

Each family names its files in `families/*/files.py`.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
