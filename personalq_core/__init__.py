"""PersonalQ without ComfyUI: what the user owns, which of it is meant, and how to make it small."""
