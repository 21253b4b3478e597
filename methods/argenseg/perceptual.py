"""How different two images look to a network that the user names: an optional loss of the tokenizer's stage.

The idea is LPIPS's (Zhang et al., CVPR 2018) without its learned weights: hidden states of the network are brought to
length 1 at every place, and their squared differences are averaged over places and layers. VAR's tokenizer was trained
with such a term; nothing is downloaded here, so any image network in transformers' layout will do (ResNet, DINOv2).
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from methods.base import UserError

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


class Perceptual:
    """The distance by the network in `folder` (config.json and safetensors), of images resized to `side` pixels (0:
    as they are).

    No module, on purpose: the network is not trained, is not part of training checkpoints, and has no training mode,
    in which a batch norm would move.
    """

    def __init__(self, folder: str, side: int = 0):
        self.folder, self.side = Path(folder), int(side)
        if not (self.folder / "config.json").is_file():
            raise UserError(f"{folder}: no config.json; perceptual.folder must hold a network of transformers.")
        file = self.folder / "preprocessor_config.json"
        try:
            found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: not readable ({error}); get the network again.") from None
        self.mean, self.std = (torch.tensor(found.get(key, value)).view(3, 1, 1) for key, value in IMAGENET.items())
        self._network: Any = None

    def __call__(self, decoded: Tensor, images: Tensor) -> Tensor:
        """Two batches [B, 3, R, R] in -1..1 -> their mean distance, differentiable by the first."""
        with torch.no_grad():
            truth = self.states(images)
        pairs = zip(self.states(decoded), truth, strict=True)
        return torch.stack([(ours - theirs).square().sum(-1).mean() for ours, theirs in pairs]).mean()

    def states(self, images: Tensor) -> list[Tensor]:
        """[B, 3, R, R] in -1..1 -> of each layer the states [B, places, C], each of length 1."""
        network = self.network(images.device)
        x = (images.float() + 1) / 2
        if self.side:
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True)
        x = (x - self.mean.to(x.device)) / self.std.to(x.device)
        anywhere = "interpolate_pos_encoding" in inspect.signature(network.forward).parameters
        options = {"interpolate_pos_encoding": True} if anywhere else {}
        layers = getattr(network(pixel_values=x, output_hidden_states=True, **options), "hidden_states", None)
        if not layers:
            raise UserError(f"{self.folder}: the network gives no hidden states; choose another for perceptual.folder.")
        places = [layer.flatten(2).transpose(1, 2) if layer.ndim == 4 else layer for layer in layers]
        return [F.normalize(layer.float(), dim=-1) for layer in places]

    def network(self, device: torch.device) -> Any:
        """The frozen network, read at its first use. Raises UserError for anything that is no whole image network."""
        if self._network is None:
            from transformers import AutoModel

            try:
                network, report = AutoModel.from_pretrained(
                    self.folder, local_files_only=True, use_safetensors=True, trust_remote_code=False,
                    dtype=torch.float32, output_loading_info=True,
                )  # fmt: skip
            except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
                reason = (str(error) or repr(error)).strip().splitlines()[0]
                raise UserError(f"{self.folder}: no readable network ({reason}); correct perceptual.folder.") from None
            missing = [name for name in report["missing_keys"] if "pooler" not in name]  # which nothing here reads
            if missing or network.main_input_name != "pixel_values":
                why = f"lacks {sorted(missing)[0]}" if missing else "reads no images"
                raise UserError(f"{self.folder}: the network {why}; choose another for perceptual.folder.")
            self._network = network.requires_grad_(False).eval().to(device)
        return self._network
