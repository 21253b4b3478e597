"""A model's folder: read and written in this project's layout, read in OpenGVLab's and transformers' too.

io: files of tensors; ours: this project's layout; opengvlab: the original one; native: that of transformers.
"""

from methods.internvl.checkpoint.ours import (
    choices,
    describe,
    empty_backbone,
    image_token_id,
    load,
    options,
    part,
    save,
)

__all__ = ["choices", "describe", "empty_backbone", "image_token_id", "load", "options", "part", "save"]
