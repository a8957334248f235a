"""Published files: their catalogue, their sources, and the download."""
