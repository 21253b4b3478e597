"""VAR's VQ-VAE against vectors of its released code (weights: `weights_int8`, `codebook_f32`; sizes: meta.json)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from methods.argenseg.config import MaskTokenizerConfig
from methods.argenseg.layout import slot_places, write_labels
from methods.argenseg.mask_tokenizer import VQVAE
from methods.argenseg.masks import mask_image, official_grey, to_bytes
from methods.argenseg.quantizer import phi_of_scale
from methods.argenseg.schedule import keep_likely
from methods.base import UserError
from methods.internvl.chat import IGNORED
from methods.parity import Check, close, named_weights, read, same

FEATURE, SUM, IMAGE = 1e-4, 1e-5, 1e-3  # tolerances; ids are exact
WEIGHTS = "weights_int8.safetensors"
COUNTER = "quantize.ema_vocab_hit_SV"  # zeros, and not stored


def recognises(folder: Path) -> bool:
    return (folder / WEIGHTS).is_file()


def check(folder: Path, facts: dict[str, Any]) -> list[Check]:
    """Every comparison that the folder allows."""
    mask_tokenizer = load(folder, facts)
    io = read(folder, "io")
    scales = range(len(mask_tokenizer.quantize.scales))
    ids = torch.cat([io[f"tokens_{k}"] for k in scales], 1).long()
    checks = [*_encode(mask_tokenizer, io, ids), *_sums(mask_tokenizer, io, ids)]
    pieces = {
        "recon.safetensors": lambda: _draw(mask_tokenizer, read(folder, "recon"), ids),
        "train_forward.safetensors": lambda: _training(mask_tokenizer, read(folder, "train_forward"), io["f"]),
        "sampling_filter.safetensors": lambda: _filters(read(folder, "sampling_filter")),
        "phi_index_table.json": lambda: _phis(json.loads((folder / "phi_index_table.json").read_text())),
        "probes_image0.json": lambda: _probes(
            mask_tokenizer, json.loads((folder / "probes_image0.json").read_text()), io, ids
        ),
        "mask_io.safetensors": lambda: _masks(read(folder, "mask_io"), folder / "mask_io.json"),
        "sequence_layout.json": lambda: _layout(
            mask_tokenizer, json.loads((folder / "sequence_layout.json").read_text())
        ),
    }
    for name, compare in pieces.items():
        if (folder / name).is_file():
            checks += compare()
    return checks


def load(folder: Path, facts: dict[str, Any]) -> VQVAE:
    """The VQ-VAE of the sizes in meta.json with the folder's weights: int8 times a power of two, and the codes."""
    sizes = facts["config"]
    multipliers, scales = tuple(sizes["ch_mult"]), tuple(sizes["v_patch_nums"])
    mask_tokenizer = VQVAE(
        MaskTokenizerConfig(
            resolution=scales[-1] * 2 ** (len(multipliers) - 1), width=sizes["ch"], multipliers=multipliers,
            blocks=sizes["num_res_blocks"], codes=sizes["vocab_size"], code_width=sizes["z_channels"], scales=scales,
            quant_resi=sizes["share_quant_resi"], beta=sizes["beta"], quant_resi_ratio=abs(sizes["quant_resi"]),
        )
    ).eval()  # fmt: skip
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            exponents = json.loads(file.metadata()["exponents"])
            tensors = {name: file.get_tensor(name).float() * 2.0 ** exponents[name] for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS}: damaged ({error}); copy the folder of reference vectors again.") from None
    tensors |= read(folder, "codebook_f32") | {COUNTER: torch.zeros_like(mask_tokenizer.quantize.ema_vocab_hit_SV)}
    shapes = {name: tensor.shape for name, tensor in mask_tokenizer.state_dict().items()}
    mask_tokenizer.load_state_dict(named_weights(shapes, tensors, folder))
    return mask_tokenizer


@torch.no_grad()
def _encode(mask_tokenizer: VQVAE, io: dict[str, Tensor], ids: Tensor) -> list[Check]:
    images = io["images"].float()
    encoded = mask_tokenizer.encoder(images)
    ours = mask_tokenizer.encode_images(images)
    alone = torch.cat([mask_tokenizer.encode_images(image[None]) for image in images])
    return [
        close("encoder output", encoded, io["encoder_out"], FEATURE),
        close("features f", mask_tokenizer.quant_conv(encoded), io["f"], FEATURE),
        same("ids", ours, ids),
        same("ids, one image at a time", alone, ids),
    ]


@torch.no_grad()
def _sums(mask_tokenizer: VQVAE, io: dict[str, Tensor], ids: Tensor) -> list[Check]:
    quantizer = mask_tokenizer.quantize
    sums = quantizer.accumulate(quantizer.embedding(ids))
    checks = [close(f"sum after scale {k}", total, io[f"f_hat_{k}"], SUM) for k, total in enumerate(sums)]
    inputs = [quantizer.shrink(total, k + 1) for k, total in enumerate(sums[:-1])]
    for k, cells in enumerate(inputs):
        reference = io[f"next_input_{k}"].flatten(2).transpose(1, 2)
        checks.append(close(f"input of scale {k + 1}", cells, reference, SUM))
    forced = quantizer.teacher_forcing(ids)
    stepwise = torch.cat(inputs, 1)
    checks.append(close("teacher-forcing input", forced, io["teacher_forcing_input"], SUM))
    return [*checks, close("step by step and teacher-forced input", stepwise, forced, 0.0)]


@torch.no_grad()
def _draw(mask_tokenizer: VQVAE, tensors: dict[str, Tensor], ids: Tensor) -> list[Check]:
    sums = mask_tokenizer.quantize.accumulate(mask_tokenizer.quantize.embedding(ids))
    checks = [close("images", mask_tokenizer.decode_features(sums[-1]).clamp(-1, 1), tensors["recon"], IMAGE)]
    each = torch.cat([mask_tokenizer.decode_features(total[:1]).clamp(-1, 1) for total in sums])[..., ::4, ::4]
    return [*checks, close("image 0 after each scale", each, tensors["recon_per_scale_img0_stride4"], IMAGE)]


def _training(mask_tokenizer: VQVAE, tensors: dict[str, Tensor], features: Tensor) -> list[Check]:
    """The quantiser's loss and its gradients, and the straight way through.

    The reference's usage counters (`ema_vocab_hit_SV_after_*`) are left out: they count one step per scale.
    """
    features = features.clone().requires_grad_()
    quantizer = mask_tokenizer.quantize
    total, _, loss = quantizer(features)
    parameters = {"f": features, "embedding": quantizer.embedding.weight}
    for i, phi in enumerate(quantizer.quant_resi["qresi_ls"]):
        parameters |= {f"phi{i}_weight": phi.weight, f"phi{i}_bias": phi.bias}
    straight = torch.autograd.grad(total.sum(), features, retain_graph=True)[0]
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    checks = [
        near("quantizer loss", loss[None], tensors["vq_loss"], 0.0, 1e-5),
        same("straight-through gradient is one", bool((straight == 1).all()), True),
    ]
    return checks + [
        near(f"gradient of {name}", grad, tensors[f"grad_{name}"], 1e-7, 1e-4)
        for name, grad in zip(parameters, gradients, strict=True)
    ]


def near(name: str, ours: Tensor, reference: Tensor, absolute: float, relative: float) -> Check:
    """Agreement of every entry within absolute + relative * |reference|."""
    if ours.shape != reference.shape:
        return Check(name, list(ours.shape), list(reference.shape), False)
    difference = (ours.detach() - reference).abs()
    ok = bool((difference <= absolute + relative * reference.abs()).all())
    return Check(name, f"{float(difference.max()):.1e}", f"<= {absolute:.0e} + {relative:.0e} |x|", ok)


def _filters(tensors: dict[str, Tensor]) -> list[Check]:
    checks = []
    for name, reference in sorted(tensors.items()):
        if name != "logits":
            top_k, top_p = re.fullmatch(r"keep_k(\d+)_p([\d.]+)", name).groups()
            kept = keep_likely(tensors["logits"], int(top_k), float(top_p))
            checks.append(same(f"what k={top_k}, p={top_p} keeps", kept, reference))
    return checks


def _phis(table: Mapping[str, list[int]]) -> list[Check]:
    found = {name: list(phi_of_scale(*(int(part[1:]) for part in name.split("_")))) for name in table}
    return [
        same(
            f"phi of each scale, {len(table)} tables, those that differ", [n for n in table if found[n] != table[n]], []
        )
    ]


@torch.no_grad()
def _probes(mask_tokenizer: VQVAE, probes: Mapping[str, Any], io: dict[str, Tensor], ids: Tensor) -> list[Check]:
    """Some values of the first image inside the network: where a mismatch begins."""
    seen: dict[str, Tensor] = {}
    handles = [
        # a copy, because what follows may work in place
        mask_tokenizer.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: seen.update({name: out.clone()})
        )
        for name in probes
    ]
    mask_tokenizer.features(io["images"][:1].float())
    mask_tokenizer.decode_features(mask_tokenizer.quantize.accumulate(mask_tokenizer.quantize.embedding(ids[:1]))[-1])
    for handle in handles:
        handle.remove()
    wrong = []
    for name, probe in probes.items():
        values = torch.tensor(probe["values"])
        ours = seen[name].flatten()[probe["flat_index"]]
        if list(seen[name].shape) != probe["shape"] or (ours - values).abs().max() > 1e-3 * probe["abs_max"]:
            wrong.append(name)
    return [same(f"{len(probes)} places inside the network, those that differ", wrong, [])]


def _masks(tensors: dict[str, Tensor], counts: Path) -> list[Check]:
    """Masks to images, images to masks, and the overlaps that come of it."""
    checks, cases = [], json.loads(counts.read_text())["cases"] if counts.is_file() else []
    for number in range(sum(bool(re.fullmatch(r"mask_\d+", name)) for name in tensors)):
        mask = tensors[f"mask_{number}"].numpy() > 0
        drawn = Image.fromarray(np.uint8(255) * mask)
        for route, mask_resize in (("two_resizes", "official"), ("one_resize", "bilinear")):
            reference = tensors[f"tokenizer_u8_{route}_{number}"]
            ours = torch.from_numpy(np.array(mask_image(drawn, len(reference), mask_resize)))
            checks.append(same(f"mask {number} as an image, {mask_resize}", ours, reference))
        image = to_bytes(tensors[f"decoded_f16_{number}"].permute(2, 0, 1))
        grey = official_grey(image, mask.shape).copy()
        predicted = grey > 127
        checks += [
            same(f"image {number} in 8 bits", torch.from_numpy(image), tensors[f"decoded_u8_{number}"]),
            same(f"image {number} resized", torch.from_numpy(grey), tensors[f"resized_L_{number}"]),
            same(f"image {number} to a mask", torch.from_numpy(predicted), tensors[f"pred_mask_{number}"]),
        ]
        if number < len(cases):
            ours = [int((mask & predicted).sum()), int((mask | predicted).sum())]
            checks.append(same(f"overlap {number}", ours, [cases[number]["intersection"], cases[number]["union"]]))
    return checks


def _layout(mask_tokenizer: VQVAE, golden: Mapping[str, Any]) -> list[Check]:
    """Where ids, labels, levels and positions of one mask lie."""
    ids, labels = torch.tensor([golden["input_ids"]]), torch.tensor([golden["labels"]])
    rows, columns = slot_places(ids, golden["gen_start"], mask_tokenizer.length)
    block = [golden["gen_start"], *[golden["placeholder"]] * (mask_tokenizer.length - 1), golden["gen_end"]]
    start = int(columns[0, 0])
    before = labels.clone()
    before[rows, columns + 1] = golden["placeholder"]
    write_labels(before, rows, columns, golden["base"] + torch.tensor([golden["tokens"]]))
    unlearned = torch.full_like(labels, IGNORED)
    write_labels(unlearned, rows, columns, golden["base"] + torch.tensor([golden["tokens"]]))
    levels = torch.tensor([k for k, length in enumerate(mask_tokenizer.quantize.lengths) for _ in range(length)])
    positions = torch.arange(1, mask_tokenizer.length)
    return [
        same("layout: ids of a mask", ids[0, start : start + len(block)], torch.tensor(block)),
        same("layout: labels", before, labels),
        same("layout: a mask in a question is not learned", bool((unlearned == IGNORED).all()), True),
        same("layout: levels", levels[1:], torch.tensor(golden["level_index_of_placeholder"])),
        same("layout: positions", positions, torch.tensor(golden["pos_index_of_placeholder"])),
    ]
