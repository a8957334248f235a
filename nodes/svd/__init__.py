"""SVD's nodes, and its networks as ComfyUI's MODEL, CLIP_VISION and VAE."""
