"""An optional second pass: SAM sharpens the coarse mask at the image's own resolution.

SAM takes the image and, through its mask-prompt convolutions, the mask that HiMTok wrote. Mask decoder and
mask-prompt convolutions are fine-tuned on masks that were made worse on purpose (HiMTok, supplement): cut off after
some tokens, dilated or eroded. Any SAM that `methods/internvl/sam.py` reads will do; nothing here knows its size.

The image is squashed to SAM's square, so that it lies on the mask as the tokenizer squashed that; the mask enters as
logits (2p - 1) * 6. The SAM of HiMTok's release is used as it was trained: with convolutions of its own, a point at the
centroid of the soft mask and the mean of its four masks. Its code means to label the point foreground unless the mask
is a ragged one at the image's edge, but finds every soft mask to be that: the label is background. Any other SAM
has no point and gives its single mask.

Shapes: B masks, I images, S side of SAM's input, M side of its mask prompt and of its output, R side of the
tokenizer's grid.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from methods.base import Example, Prediction
from methods.common.masks import bilinear_mask, nearest_mask
from methods.himtok.hierarchy import mask_loss
from methods.himtok.mask_tokenizer import MaskTokenizer, preprocess_mask
from methods.images import open_image
from methods.internvl.sam import Sam, load_sam

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # SAM's
SHARPNESS = 6.0  # probabilities become logits (2p - 1) * 6
BACKGROUND, FOREGROUND = 0, 1  # labels of points
CHANGED = 0.7  # share of the masks that are dilated or eroded
KERNELS, KERNEL_SHARES = (3, 5, 7), (0.25, 0.5, 0.25)
LEAST = 10  # pixels that must be left


class Refiner(nn.Module):
    """SAM with a mask as its prompt."""

    def __init__(self, sam: Sam):
        super().__init__()
        self.sam, self.stack = sam

    @classmethod
    def from_pretrained(cls, place: Path) -> Refiner:
        """See sam.load_sam."""
        return cls(load_sam(place)).eval()

    def save_pretrained(self, folder: Path) -> None:
        """In transformers' layout, which has no place for the convolutions of HiMTok's release."""
        if self.stack is not None:
            raise ValueError("The SAM of HiMTok's release is not SAM in transformers' layout; keep its own file.")
        self.sam.save_pretrained(folder)

    @property
    def side(self) -> int:
        """S."""
        return self.sam.config.vision_config.image_size

    @property
    def prompt_side(self) -> int:
        """M: the two convolutions of stride 2 bring it to the grid of the image embedding."""
        return 4 * self.sam.config.prompt_encoder_config.image_embedding_size

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images -> normalised float32 [I, 3, S, S], squashed to SAM's square."""
        weights = Image.Resampling.BILINEAR if self.stack is None else Image.Resampling.BICUBIC  # as each was trained
        small = [np.asarray(image.resize((self.side, self.side), weights)) for image in images]
        stacked = torch.from_numpy(np.stack(small)).float().permute(0, 3, 1, 2) / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        return ((stacked - mean) / std).to(self.sam.device)

    def forward(self, pixels: Tensor, coarse: Tensor) -> Tensor:
        """pixels [B, 3, S, S], or [1, 3, S, S] if all masks are of one image; coarse mask probabilities [B, R, R] ->
        mask logits float32 [B, M, M]."""
        embedding = self.sam.get_image_embeddings(pixels).expand(len(coarse), -1, -1, -1)
        positions = self.sam.get_image_wide_positional_embeddings().repeat(len(coarse), 1, 1, 1)
        side, convolutions = self.prompt_side, self.sam.prompt_encoder.mask_embed if self.stack is None else self.stack
        prompt = F.interpolate(coarse[:, None].float(), (side, side), mode="bilinear", antialias=True)
        dense = convolutions(((2 * prompt - 1) * SHARPNESS).to(embedding))
        points = None if self.stack is None else self._points(coarse)
        # the first of the masks is the single one, the others are meant for ambiguous prompts
        kinds = (False,) if self.stack is None else (False, True)
        masks = [
            self.sam.mask_decoder(embedding, positions, points, dense, multimask_output=several)[0][:, 0]
            for several in kinds
        ]
        return torch.cat(masks, 1).float().mean(1)

    def _points(self, coarse: Tensor) -> Tensor:
        """Embeddings [B, 1, 2, C] of a point at each soft mask's centroid, and of SAM's padding point; of an empty mask
        it is the middle, as foreground."""
        total, side = coarse.sum((1, 2)), coarse.shape[-1]
        places = torch.arange(side, device=coarse.device, dtype=coarse.dtype)
        x, y = (coarse.sum(axis) @ places / total for axis in (1, 2))
        point = torch.where(total[:, None] > 0, torch.stack([x, y], 1), side / 2) * (self.side / side)
        label = torch.where(total > 0, BACKGROUND, FOREGROUND).float()
        return self.sam.prompt_encoder(point[:, None, None], label[:, None, None], None, None)[0]

    @torch.inference_mode()
    def refine(
        self, image: Path | Image.Image, predictions: Sequence[Prediction], mask_resize: str = "", empty: bool = False
    ) -> list[Prediction]:
        """Sharpen predictions for one image, in place; their `seconds` tell what it took under "refine".

        mask_resize: as in RequestOptions, bilinear if it is empty. empty: whether masks that are empty, or that nobody
        wrote, are refined too, as in the official evaluation."""
        start, softs = time.perf_counter(), [p.probabilities for p in predictions]
        chosen = [i for i, soft in enumerate(softs) if empty or (soft is not None and (soft > 0.5).any())]
        if not chosen:
            return list(predictions)
        none = np.zeros(next((s.shape for s in softs if s is not None), (self.prompt_side,) * 2), np.float32)
        coarse = torch.from_numpy(np.stack([none if softs[i] is None else softs[i] for i in chosen]))
        to_size = nearest_mask if mask_resize == "official" else bilinear_mask
        refined = self(self.pixels([open_image(image)]), coarse.to(self.sam.device)).sigmoid()
        for i, soft in zip(chosen, refined, strict=True):
            predictions[i].mask = to_size(soft, predictions[i].mask.shape)
        each = (time.perf_counter() - start) / len(predictions)  # the copies of the masks have waited for the device
        for prediction in predictions:
            prediction.seconds["refine"] = each
        return list(predictions)

    def prepare_training(self) -> list[nn.Parameter]:
        """Freeze all but the mask decoder and the mask-prompt convolutions -> what is trained."""
        self.requires_grad_(False)
        for part in (self.sam.mask_decoder, self.sam.prompt_encoder.mask_embed if self.stack is None else self.stack):
            part.requires_grad_(True)
        self.sam.mask_decoder.iou_prediction_head.requires_grad_(False)  # its output is not used
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


# ---- fine-tuning ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def degraded(tokenizer: MaskTokenizer, views: Tensor, rng: np.random.Generator) -> Tensor:
    """Masks float [B, 1, R, R] -> what the refiner may be given for them, float [B, R, R] in 0..1.

    Each goes through the tokenizer with 1 to T of its tokens; seven of ten are then dilated or eroded with a square of
    3, 5 or 7 pixels, unless that leaves ten pixels or fewer.
    """
    ids, result = tokenizer.encode(views), []
    for row in ids:
        kept = int(rng.integers(1, tokenizer.length + 1))
        mask = tokenizer.decode(row[None, :kept])[0]
        if rng.random() < CHANGED:
            size = int(rng.choice(KERNELS, p=KERNEL_SHARES))
            grow = rng.random() < 0.5
            changed = F.max_pool2d(mask[None], size, 1, size // 2)[0] if grow else _eroded(mask, size)
            mask = changed if (changed > 0.5).sum() > LEAST else mask
        result.append(mask)
    return torch.stack(result)


def _eroded(mask: Tensor, size: int) -> Tensor:
    return 1 - F.max_pool2d(1 - mask[None], size, 1, size // 2)[0]


def fine_tune(
    refiner: Refiner, tokenizer: MaskTokenizer, examples: Sequence[Example], steps: int, lr: float = 1e-4,
    batch: int = 8, dice: float = 1.0, seed: int = 0,
) -> list[float]:  # fmt: skip
    """Train on degraded masks of examples with AdamW -> the loss of each step.

    Learning rate, epochs and data of the paper are not published; these defaults are ours.
    """
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(refiner.prepare_training(), lr, weight_decay=0.05)
    refiner.train()
    losses = []
    for _ in range(steps):
        chosen = [examples[int(i)] for i in rng.integers(len(examples), size=batch)]
        views = [preprocess_mask(e.mask, tokenizer.resolution, f"{e.dataset} sample {e.ref_id}") for e in chosen]
        coarse = degraded(tokenizer, torch.from_numpy(np.stack(views))[:, None].to(tokenizer.latent_tokens), rng)
        logits = refiner(refiner.pixels([open_image(e.image) for e in chosen]), coarse.to(refiner.sam.device))
        truth = [preprocess_mask(e.mask, refiner.prompt_side, "mask") for e in chosen]
        loss = mask_loss(logits, torch.from_numpy(np.stack(truth)).to(logits), dice)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(refiner.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    refiner.eval()
    return losses
