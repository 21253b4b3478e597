"""An optional second pass: SAM sharpens the coarse mask at the image's own resolution.

SAM takes the image and, through its mask-prompt convolutions, the mask that HiMTok wrote. Mask decoder and
mask-prompt convolutions are fine-tuned on masks that were made worse on purpose (HiMTok, supplement): cut off after
some tokens, dilated or eroded. Any SAM that transformers loads will do; nothing here knows its size.

As in the released refinement the image is squashed to SAM's square, so that it lies on the mask as the tokenizer
squashed that; the mask enters as logits (2p - 1) * 6. Unlike there SAM's own mask-prompt convolutions and its
single-mask output are used, no point is added (its label was always "background" for soft
masks), and an empty mask stays empty.

Shapes: B images, S side of SAM's input, M side of its mask prompt and of its output, R side of the tokenizer's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SamModel

from methods.base import Example, Prediction, UserError, open_image
from methods.himtok.hierarchy import mask_loss
from methods.himtok.mask_tokenizer import MaskTokenizer, preprocess_mask

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # SAM's
SHARPNESS = 6.0  # probabilities become logits (2p - 1) * 6
CHANGED = 0.7  # share of the masks that are dilated or eroded
KERNELS, KERNEL_SHARES = (3, 5, 7), (0.25, 0.5, 0.25)
LEAST = 10  # pixels that must be left


class Refiner(nn.Module):
    """SAM with a mask as its only prompt."""

    def __init__(self, sam: SamModel):
        super().__init__()
        self.sam = sam

    @classmethod
    def from_pretrained(cls, folder: Path) -> Refiner:
        """A SAM in transformers' layout, safetensors only. Raises UserError for anything else."""
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: config.json is missing; give the folder of a SAM in transformers' layout.")
        try:
            sam = SamModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except Exception as error:  # damaged files fail in transformers with any exception
            reason = (str(error) or repr(error)).splitlines()[0]
            raise UserError(f"{folder}: no usable SAM ({reason}); copy its folder again.") from None
        model, report = sam
        wrong = sorted([*report["missing_keys"], *report["unexpected_keys"], *map(str, report["mismatched_keys"])])
        if wrong:
            raise UserError(f"{folder}: {wrong[0]} does not fit this SAM; copy its folder again.")
        return cls(model).eval()

    def save_pretrained(self, folder: Path) -> None:
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
        """RGB images -> normalised float32 [B, 3, S, S], squashed to SAM's square."""
        small = [np.asarray(image.resize((self.side, self.side), Image.Resampling.BILINEAR)) for image in images]
        stacked = torch.from_numpy(np.stack(small)).float().permute(0, 3, 1, 2) / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        return ((stacked - mean) / std).to(self.sam.device)

    def forward(self, pixels: Tensor, coarse: Tensor) -> Tensor:
        """pixels [B, 3, S, S], coarse mask probabilities [B, R, R] -> mask logits float32 [B, M, M]."""
        embedding = self.sam.get_image_embeddings(pixels)
        positions = self.sam.get_image_wide_positional_embeddings().repeat(len(pixels), 1, 1, 1)
        side = self.prompt_side
        prompt = F.interpolate(coarse[:, None].float(), (side, side), mode="bilinear", antialias=True)
        dense = self.sam.prompt_encoder.mask_embed(((2 * prompt - 1) * SHARPNESS).to(embedding))
        masks, _ = self.sam.mask_decoder(
            image_embeddings=embedding, image_positional_embeddings=positions, sparse_prompt_embeddings=None,
            dense_prompt_embeddings=dense, multimask_output=False,
        )  # fmt: skip
        return masks[:, 0, 0].float()

    @torch.no_grad()
    def refine(self, image: Path | Image.Image, predictions: Sequence[Prediction]) -> list[Prediction]:
        """Sharpen predictions for one image, in place; those without a mask stay as they are."""
        full = [p for p in predictions if p.probabilities is not None and (p.probabilities > 0.5).any()]
        if not full:
            return list(predictions)
        coarse = torch.from_numpy(np.stack([p.probabilities for p in full])).to(self.sam.device)
        pixels = self.pixels([open_image(image)]).expand(len(full), -1, -1, -1)
        for prediction, soft in zip(full, self(pixels, coarse).sigmoid(), strict=True):
            size = prediction.mask.shape
            large = F.interpolate(soft[None, None], size, mode="bilinear", antialias=True)[0, 0]
            prediction.mask = (large > 0.5).cpu().numpy()
        return list(predictions)

    def prepare_training(self) -> list[nn.Parameter]:
        """Freeze all but the mask decoder and the mask-prompt convolutions -> what is trained."""
        self.requires_grad_(False)
        for part in (self.sam.mask_decoder, self.sam.prompt_encoder.mask_embed):
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
