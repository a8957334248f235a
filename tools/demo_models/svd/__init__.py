"""The embedded SVD demo model."""
