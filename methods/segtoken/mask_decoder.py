"""A hidden state and the vision tower's patches to a mask, as LISA does it: the state is projected to a prompt of SAM's
mask decoder, whose two-way attention takes the prompt to the image and the image to the prompt.

The decoder is transformers' own, so that the weights of any SAM of the same sizes fit; of its four masks the single one
is learned and taken.
What SAM's image encoder ends with, two convolutions with layer norms, brings our patches to its width.

Shapes: M masks, D width of the language model, P patches of a tile on a grid of side G, V width of a patch, C width of
the decoder, R = 4 G.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import SamMaskDecoderConfig, SamModel
from transformers.models.sam.modeling_sam import SamLayerNorm, SamMaskDecoder

from methods.base import UserError
from methods.segtoken.config import DOWNSAMPLING, MaskDecoderConfig

EPS = 1e-5  # of the layer norms in Meta's code


class MaskDecoder(nn.Module):
    def __init__(self, config: MaskDecoderConfig, text_width: int, patch_width: int):
        super().__init__()
        self.config, width = config, config.width
        self.prompt = nn.Sequential(nn.Linear(text_width, text_width), nn.ReLU(), nn.Linear(text_width, width))
        self.neck = nn.Sequential(
            nn.Conv2d(patch_width, width, 1, bias=False), SamLayerNorm(width, data_format="channels_first"),
            nn.Conv2d(width, width, 3, padding=1, bias=False), SamLayerNorm(width, data_format="channels_first"),
        )  # fmt: skip
        self.no_mask = nn.Parameter(torch.zeros(1, width, 1, 1))  # stands for the mask that a SAM may be prompted with
        self.register_buffer("frequencies", torch.randn(2, width // 2))
        sizes = SamMaskDecoderConfig(
            hidden_size=width, mlp_dim=config.mlp, num_hidden_layers=config.layers,
            num_attention_heads=config.heads, attention_downsample_rate=DOWNSAMPLING, layer_norm_eps=EPS,
        )  # fmt: skip
        sizes._attn_implementation = "sdpa"
        self.two_way = SamMaskDecoder(sizes)
        self.two_way.iou_prediction_head = nn.Identity()  # its output would not be used

    def forward(self, states: Tensor, patches: Tensor) -> Tensor:
        """Hidden states [M, D] and patches [M, P, V] of the tile that shows the whole image -> logits [M, R, R]."""
        side = round(patches.shape[1] ** 0.5)
        image = self.neck(patches.transpose(1, 2).unflatten(2, (side, side)))
        if self.config.image == "zeros":
            image = 0 * image  # the same modules take part, which processes that share a model must agree on
        prompts = self.prompt(states)[:, None, None]
        places = self._positions(side).to(image).expand(len(image), -1, -1, -1)
        return self.two_way(image, places, prompts, self.no_mask.to(image), False)[0][:, 0, 0]

    def _positions(self, side: int) -> Tensor:
        """Random Fourier features of the places of a grid, [1, C, side, side], as SAM's prompt encoder has them."""
        middles = (torch.arange(side, device=self.frequencies.device) + 0.5) / side * 2 - 1
        y, x = torch.meshgrid(middles, middles, indexing="ij")
        turns = 2 * torch.pi * (torch.stack([x, y], -1).to(self.frequencies) @ self.frequencies)
        return torch.cat([turns.sin(), turns.cos()], -1).permute(2, 0, 1)[None]

    @torch.no_grad()
    def start_from(self, sam: SamModel) -> None:
        """Take over the mask decoder of a SAM. Raises UserError for other sizes."""
        theirs, ours = sam.mask_decoder.state_dict(), self.two_way.state_dict()
        wrong = [name for name in ours if name not in theirs or theirs[name].shape != ours[name].shape]
        if wrong:
            raise UserError(
                f"{wrong[0]} of this SAM's mask decoder does not fit; give model.mask_decoder the sizes of the SAM."
            )
        self.two_way.load_state_dict({name: theirs[name] for name in ours})
        self.frequencies.copy_(sam.shared_image_embedding.positional_embedding)
        self.no_mask.copy_(sam.prompt_encoder.no_mask_embed.weight[0][None, :, None, None])
