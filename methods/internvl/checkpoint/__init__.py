"""A model's folder: read and written in this project's layout, read in OpenGVLab's and transformers' too.

io: files of tensors; ours: this project's layout; opengvlab: the original one; native: that of transformers.
"""

from methods.internvl.checkpoint.native import BACKBONE_ALONE
from methods.internvl.checkpoint.ours import (
    choices,
    describe,
    describe_mask_tokenizer,
    empty_backbone,
    image_token_id,
    load,
    load_part,
    part,
    save,
)

__all__ = [
    "choices",
    "BACKBONE_ALONE",
    "describe",
    "describe_mask_tokenizer",
    "empty_backbone",
    "image_token_id",
    "load",
    "load_part",
    "part",
    "save",
]
