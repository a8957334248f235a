"""CogVideoX's nodes, and its networks as ComfyUI's MODEL, CLIP and VAE."""
