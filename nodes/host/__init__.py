"""The only files that touch ComfyUI's own modules."""
