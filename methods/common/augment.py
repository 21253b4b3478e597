"""Masks beyond those of the data, for training mask tokenizers: flips, stretched masks, synthetic shapes.

Referring data hold few tall, wide or cut masks, and a tokenizer that has not met them decodes them elsewhere. Both
methods' tokenizers train on the same mixture. Everything random comes from torch's global generator, which the trainer
seeds for each micro-batch.

Shapes: B masks [B, 1, R, R] in 0..1 with soft edges; places and lengths are shares of the side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

SCALE = 3.0  # most by which a mask is stretched or shrunk along an axis
COVERED = (0.012, 0.6)  # share of the image that a stretched mask keeps to
LEAST = 0.005  # share of the image below which a stretched mask is given up for the mask itself


@torch.no_grad()
def augmented(masks: Tensor, name: str) -> Tensor:
    """masks [B, 1, R, R] -> as many: "none" as they are; "shapes" half of them flipped half of the time, a quarter
    stretched and moved, and synthetic shapes in place of the last quarter."""
    if name == "none":
        return masks
    count = len(masks)
    kept, stretched_ = count - count // 2, count // 4
    parts = [flipped(masks[:kept]), stretched(masks[kept : kept + stretched_])]
    synthetic = shapes(count - kept - stretched_, masks.shape[-1]).to(masks)
    return torch.cat([*parts, synthetic])


def flipped(masks: Tensor) -> Tensor:
    """Each left to right, upside down, both or neither, the last as often as the three others together."""
    kind = torch.multinomial(torch.tensor([0.5, 1 / 6, 1 / 6, 1 / 6]), len(masks), replacement=True).to(masks.device)
    across, down = (kind % 2 == 1)[:, None, None, None], (kind >= 2)[:, None, None, None]
    masks = torch.where(across, masks.flip(-1), masks)
    return torch.where(down, masks.flip(-2), masks)


def stretched(masks: Tensor) -> Tensor:
    """Each scaled by 1/3 to 3 along either axis, mirrored at random and moved so that its centre lies anywhere."""
    count, side = len(masks), masks.shape[-1]
    if not count:
        return masks
    x, y = grid(side, masks.device)
    weight = masks[:, 0].sum((1, 2)).clamp(min=1)
    centre = [2 * (masks[:, 0] * axis).sum((1, 2)) / weight - 1 for axis in (x, y)]  # in -1..1
    scales = [torch.exp((2 * uniform(count) - 1) * math.log(SCALE)).to(masks) for _ in centre]
    covered = weight / side**2 * scales[0] * scales[1]
    fit = (COVERED[1] / covered).clamp(max=1).sqrt() * (COVERED[0] / covered).clamp(min=1).sqrt()
    affine = masks.new_zeros(count, 2, 3)
    for axis, (middle, scale) in enumerate(zip(centre, scales, strict=True)):
        factor = scale * fit * (2 * torch.randint(0, 2, (count,)) - 1).to(masks)
        affine[:, axis, axis] = 1 / factor
        affine[:, axis, 2] = middle - 0.95 * (2 * uniform(count) - 1).to(masks) / factor
    places = F.affine_grid(affine, list(masks.shape), align_corners=False)
    made = F.grid_sample(masks, places, align_corners=False)
    lost = made.flatten(1).mean(1) < LEAST
    return torch.where(lost[:, None, None, None], masks, made)


def shapes(count: int, side: int) -> Tensor:
    """Super-ellipses, stars, polygons, rings and strokes [count, 1, R, R] of all sizes and aspects, two fifths of them
    along a border."""
    if not count:
        return torch.zeros(0, 1, side, side)
    x, y = grid(side)
    size, aspect = torch.exp(between(count, math.log(0.08), math.log(0.42))), torch.exp(0.9 * between(count, -1, 1))
    a, b = (size * aspect.sqrt()).clamp(0.035, 0.5), (size / aspect.sqrt()).clamp(0.035, 0.5)
    cx, cy = _at_border(a), _at_border(b)
    kind = torch.randint(0, 5, (count,))
    upright = (kind == 0) & (uniform(count) < 0.7)
    angle = torch.where(upright, 0.0, between(count, 0, math.pi))
    dx, dy, cosine, sine = x - _map(cx), y - _map(cy), _map(angle.cos()), _map(angle.sin())
    u, v = (cosine * dx + sine * dy) / _map(a), (cosine * dy - sine * dx) / _map(b)
    level = torch.stack([_super_ellipse(u, v), _star(u, v), _polygon(u, v), _ring(u, v)])  # below 1 inside
    outline = level.gather(0, kind.clamp(max=3)[None, :, None, None].expand(1, -1, side, side))[0]
    solid = ((1 - outline) * _map(torch.minimum(a, b)) * side + 0.5).clamp(0, 1)
    return torch.where(_map(kind == 4), _stroke(count, x, y), solid)[:, None]


def _at_border(half: Tensor) -> Tensor:
    """Centres of shapes of that half length along an axis: anywhere, or for a fifth with an end at a border."""
    count = len(half)
    ends = torch.where(uniform(count) < 0.5, half, 1 - half)
    return torch.where(uniform(count) < 0.22, ends, uniform(count))


def _super_ellipse(u: Tensor, v: Tensor) -> Tensor:
    power = _map(between(len(u), 1.3, 6))
    return (u.abs().pow(power) + v.abs().pow(power)).clamp(min=1e-9).pow(1 / power)


def _star(u: Tensor, v: Tensor) -> Tensor:
    """A circle with waves."""
    count = len(u)
    waves, depth, phase = torch.randint(3, 8, (count,)), between(count, 0.1, 0.5), between(count, 0, 2 * math.pi)
    radius = 1 + _map(depth) * torch.cos(_map(waves) * torch.atan2(v, u) + _map(phase))
    return 1.2 * torch.hypot(u, v) / radius


def _polygon(u: Tensor, v: Tensor) -> Tensor:
    """A regular polygon of 3 to 7 corners."""
    corners, phase = torch.randint(3, 8, (len(u),)), between(len(u), 0, 2 * math.pi)
    sector = _map(2 * math.pi / corners)
    within = torch.remainder(torch.atan2(v, u) + _map(phase), sector) - sector / 2
    return torch.hypot(u, v) * within.cos() / (sector / 2).cos()


def _ring(u: Tensor, v: Tensor) -> Tensor:
    inner = _map(between(len(u), 0.35, 0.8))
    return 1 + (torch.hypot(u, v) - (1 + inner) / 2).abs() - (1 - inner) / 2


def _stroke(count: int, x: Tensor, y: Tensor) -> Tensor:
    """Curved lines of one width [count, R, R]: quadratic curves through the image."""
    t = torch.linspace(0, 1, 40)[None, :, None]
    start, middle, end = torch.rand(count, 3, 1, 2).unbind(1)
    line = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
    distance = torch.hypot(x - line[:, :, 0, None, None], y - line[:, :, 1, None, None]).amin(1)
    return ((_map(between(count, 0.018, 0.06)) - distance) * x.shape[-1] + 0.5).clamp(0, 1)


def grid(side: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """x and y of the pixels' middles, float32 [R, R] in 0..1."""
    middles = (torch.arange(side, device=device) + 0.5) / side
    return middles.expand(side, side), middles[:, None].expand(side, side)


def uniform(count: int) -> Tensor:
    return torch.rand(count)


def between(count: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(count)


def _map(values: Tensor) -> Tensor:
    """[B] -> [B, 1, 1], to stand beside maps."""
    return values[:, None, None]
