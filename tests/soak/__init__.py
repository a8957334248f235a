"""Many prompts in one server: what is left behind."""
