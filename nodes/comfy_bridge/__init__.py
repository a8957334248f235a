"""Between the core and ComfyUI, for any family: sampling, preview, resume, memory, estimates."""
