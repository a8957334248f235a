"""CogVideoX-5B with ExVideo's LoRA (arXiv:2408.06072, arXiv:2406.14130)."""
