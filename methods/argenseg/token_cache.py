"""Token ids of masks on disk: the VQ-VAE is frozen while the language model learns, so each mask is encoded once.

A file is a row of records, 16 bytes of the mask's BLAKE2 and its ids; its name begins with a digest of the encoding
half of the VQ-VAE, so that ids of another one are never taken. Each process appends to a file of its own and reads
all files once, at the start; a torn last record is left out.
"""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from methods.argenseg.mask_tokenizer import VQVAE
from methods.base import UserError

ENCODING = ("encoder.", "quant_conv.", "quantize.embedding.", "quantize.quant_resi.")


def tokenizer_digest(tokenizer: VQVAE) -> str:
    """Short SHA-256 of all that decides which ids an image gets."""
    total = hashlib.sha256(repr(tokenizer.config).encode())
    for name, tensor in sorted(tokenizer.state_dict().items()):
        if name.startswith(ENCODING):
            total.update(tensor.detach().float().cpu().numpy().tobytes())
    return total.hexdigest()[:16]


class TokenCache:
    """Encodes masks through a VQ-VAE, and each distinct mask once."""

    def __init__(self, folder: Path, tokenizer: VQVAE):
        number = np.uint16 if tokenizer.size <= 2**16 else np.uint32
        self.record = np.dtype([("key", "V16"), ("ids", number, (tokenizer.length,))])
        name = tokenizer_digest(tokenizer)
        self.known: dict[bytes, np.ndarray] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(folder.glob(f"{name}-*.tokens")):
                records = np.fromfile(path, self.record, path.stat().st_size // self.record.itemsize)
                self.known |= zip((key.tobytes() for key in records["key"]), records["ids"], strict=True)
        except OSError as error:
            raise UserError(f"{folder}: cannot hold cached tokens ({error}); give another folder.") from None
        self.tokenizer = tokenizer
        self.path = folder / f"{name}-{uuid.uuid4().hex[:8]}.tokens"

    def encode(self, masks: Tensor) -> Tensor:
        """float [M, 1, R, R] in 0..1 -> ids int64 [M, T]."""
        keys = [hashlib.blake2b(mask.tobytes(), digest_size=16).digest() for mask in masks.float().cpu().numpy()]
        fresh = {key: row for row, key in enumerate(keys) if key not in self.known}
        if fresh:
            ids = self.tokenizer.encode(masks[list(fresh.values())]).cpu().numpy()
            records = np.zeros(len(fresh), self.record)
            records["ids"] = ids
            records["key"] = np.frombuffer(b"".join(fresh), "V16")
            with self.path.open("ab") as file:
                file.write(records.tobytes())
            self.known |= zip(fresh, records["ids"], strict=True)
        return torch.from_numpy(np.stack([self.known[key] for key in keys]).astype(np.int64)).to(masks.device)
