"""The core's networks as ComfyUI's own kinds of object: MODEL, CLIP_VISION, VAE."""
