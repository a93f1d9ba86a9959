"""A small world drawn by us, and text-to-image models really trained on it.

No public checkpoint is needed to see PersonalQ work: everything here is drawn from a seed,
trained from scratch, stored at 16 bit and assembled into the files that ComfyUI loads.
"""
