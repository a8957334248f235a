"""The published files: what they are, where they come from, and fetching them."""
