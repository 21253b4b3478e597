"""ARGenSeg and VAR's VQ-VAE against vectors of the released code.

Two forms of folders, both with a `meta.json`: the VQ-VAE alone (`weights_int8.safetensors`, see `parity_tokenizer.py`),
and the whole model at a tiny size (`weight_overrides.safetensors`), whose other weights are a function of their names.
Every vector that a folder has is checked; sizes, ids and constants are read from the folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from methods.argenseg import parity_tokenizer
from methods.argenseg.layout import slot_places
from methods.argenseg.masks import mask_image, official_grey, to_bytes
from methods.argenseg.model import ARGenSeg
from methods.argenseg.parity_model import OVERRIDES, load, scripted
from methods.argenseg.schedule import Guided, ScaleByScale, TokenByToken
from methods.argenseg.state_dict import OWN
from methods.base import UserError
from methods.common.masks import without_letterbox
from methods.internvl.chat import IGNORED, Chat, Turn
from methods.internvl.checkpoint import opengvlab
from methods.internvl.generation.engine import Answer, Block, decode
from methods.internvl.generation.kv_cache import Stepper
from methods.parity import Check, close, read, same

INPUT, HIDDEN, LOGIT, LOSS, GRADIENT, IMAGE = 1e-5, 1e-4, 1e-4, 1e-4, 2e-6, 1e-3  # tolerances; ids are exact
LEVEL = 1.0  # an image that is truncated to 8 bits may differ by a level


def recognises(folder: Path) -> bool:
    """Whether the folder holds vectors of one of the two forms."""
    return (folder / "meta.json").is_file() and (
        parity_tokenizer.recognises(folder) or (folder / f"{OVERRIDES}.safetensors").is_file()
    )


def check(folder: Path) -> list[Check]:
    """Every comparison that the folder allows."""
    try:
        facts = json.loads((folder / "meta.json").read_text())
    except ValueError as error:
        raise UserError(f"{folder}/meta.json: damaged ({error}); copy the folder of reference vectors again.") from None
    if parity_tokenizer.recognises(folder):
        return parity_tokenizer.check(folder, facts)
    method, checks = load(folder, facts)
    for name, piece in PIECES.items():
        if (folder / f"{name}.safetensors").is_file():
            method.requires_grad_(False)
            checks += piece(method, read(folder, name), facts, folder)
    return checks


def compare(io: Mapping[str, Tensor], name: str, ours: Tensor, tolerance: float = 0.0, label: str = "") -> list[Check]:
    """One check against the vector called name, by equality for a tolerance of 0; none if the folder lacks it."""
    label = label or name.replace("_", " ")
    if name not in io:
        return []
    return [close(label, ours, io[name], tolerance) if tolerance else same(label, ours, io[name])]


# ---- one teacher-forced pass ----------------------------------------------------------------------------------------


def training(method: ARGenSeg, io: dict[str, Tensor], facts: dict[str, Any], folder: Path) -> list[Check]:
    """Sequences, ids, slot inputs, hidden states, logits, both losses and the gradients of their sum."""
    shown = io["image_flags"].bool() if "image_flags" in io else torch.ones(len(io["pixel_values"]), dtype=torch.bool)
    masks = io["masks_u8"][io["mask_flags"].bool()][:, None].float() / 255
    ids = method.mask_tokenizer.encode(masks)
    cells = method.mask_tokenizer.quantize.teacher_forcing(ids)
    batch = {
        "ids": io["input_ids"],
        "labels": io["labels"].clone(),
        "pixels": io["pixel_values"][shown],
        "tile_of": torch.arange(int(shown.sum())),
        "masks": masks,
    }
    checks = _conversations(method, io, facts)
    checks += [
        same("visual ids", ids, io["mask_ids"][io["mask_flags"].bool()]),
        same("visual ids, one mask at a time", torch.cat([method.mask_tokenizer.encode(m[None]) for m in masks]), ids),
        *compare(io, "var_input_mask0", cells[0], INPUT),
        *compare(io, "embeds_mask_slots_sample0", method.slot_inputs(cells[:1], 1)[0], INPUT),
    ]
    method.backbone.requires_grad_(True)
    for name in OWN:
        method.get_parameter(name).requires_grad_(True)
    losses = method.loss(dict(batch))
    sum(losses.values()).backward()
    checks += compare(io, "labels_after", batch["labels"])
    checks += compare(io, "text_loss", losses["text"][None], LOSS) + compare(
        io, "gen_loss", losses["visual"][None], LOSS
    )
    return checks + _gradients(method, io, facts) + _states(method, batch, io)


def _conversations(method: ARGenSeg, io: dict[str, Tensor], facts: dict[str, Any]) -> list[Check]:
    """The reference writes a start-of-text id in front of every conversation."""
    checks = []
    for row, turns in enumerate(facts["train"]["convs"]):
        system, chat = method.processor.chat.system, method.processor.chat
        if turns[0]["from"] == "system":
            system, turns = turns[0]["value"], turns[1:]
            chat = Chat(method.processor.tokenizer, method.processor.chat.tokens_per_tile, system)
        said = [Turn("user" if t["from"] == "human" else "assistant", t["value"]) for t in turns]
        ids, labels = chat.encode(said, 1, method.processor.mask_block)
        seen = io["attention_mask"][row].bool()
        begin = io["input_ids"][row, :1].tolist()
        checks.append(same(f"ids of conversation {row}", torch.tensor(begin + ids), io["input_ids"][row, seen]))
        learned = torch.tensor([IGNORED, *labels]) != IGNORED
        checks.append(same(f"learned positions of conversation {row}", learned, io["labels"][row, seen] != IGNORED))
    return checks


def _gradients(method: ARGenSeg, io: dict[str, Tensor], facts: dict[str, Any]) -> list[Check]:
    named = {name: parameter.grad for name, parameter in method.backbone.native.named_parameters()}
    table = {entry.original: entry for entry in opengvlab.key_table(method.backbone.size)}
    size = method.backbone.size
    found = {name: opengvlab.join([named[n] for n in entry.native], entry, size) for name, entry in table.items()}
    found |= {name: method.get_parameter(name).grad for name in OWN}
    rows = {"tok_embeddings.ge_start": method.processor.start_id, "tok_embeddings.ge_end": method.processor.end_id}
    ours = {f"grad.{name}": grad for name, grad in found.items()} | {"grad.pos_1LC": found["pos_1LC"][0]}
    ours["grad.output.rowsum"] = found["language_model.output.weight"].sum(1)
    for name, row in rows.items():
        ours[f"grad.{name}"] = found["language_model.model.tok_embeddings.weight"][row]
    checks = [close(name, ours[name], io[name], GRADIENT) for name in sorted(io) if name.startswith("grad.")]
    norms = facts["train"]["grad_norms"]
    pairs = [(found[name].norm(), torch.tensor(norm)) for name, norm in norms.items()]
    ours, reference = (torch.stack(side) for side in zip(*pairs, strict=True))
    return [
        *checks,
        close(f"norms of {len(norms)} gradients, relative", ours / reference, torch.ones(len(norms)), 1e-3),
    ]


@torch.no_grad()
def _states(method: ARGenSeg, batch: dict[str, Any], io: dict[str, Tensor]) -> list[Check]:
    hidden, _ = method.hidden_states(batch, method._fill(batch))
    logits = method.backbone.head(hidden)
    seen = io["attention_mask"].bool()
    top, places = logits.topk(5, -1)
    known = {
        name: io[name][seen]
        for name in ("final_hidden", "argmax", "top5_values", "top5_ids", "logsumexp")
        if name in io
    }
    checks = compare(known, "final_hidden", hidden[seen], HIDDEN)
    checks += compare(known, "argmax", logits[seen].argmax(-1))
    if "top5_ids" in known:
        theirs = known["top5_ids"].long()
        level = (logits[seen].gather(-1, theirs) - top[seen]).abs() <= LOGIT  # such neighbours may change places
        checks += compare(known, "top5_ids", torch.where(level, theirs, places[seen]))
    checks += compare(known, "top5_values", top[seen], LOGIT)
    checks += compare(known, "logsumexp", logits[seen].logsumexp(-1), LOGIT)
    if "logit_rows_index" in io:
        real = seen[0, io["logit_rows_index"]]  # some of these positions are padding
        ours, reference = logits[0, io["logit_rows_index"]][real], io["logit_rows_sample0"][real]
        checks.append(close("whole rows of logits", ours, reference, LOGIT))
    return checks


# ---- answers --------------------------------------------------------------------------------------------------------


class Recorder:
    """Keeps the hidden states of every pass of the language model while answers are written."""

    def __enter__(self) -> list[Tensor]:
        self.run, passes = Stepper.run, []

        def run(stepper: Stepper, *args: Any, **kwargs: Any) -> Tensor:
            passes.append(self.run(stepper, *args, **kwargs))
            return passes[-1]

        Stepper.run = run
        return passes

    def __exit__(self, *_: object) -> None:
        Stepper.run = self.run


@torch.no_grad()
def inference(method: ARGenSeg, io: dict[str, Tensor], facts: dict[str, Any], folder: Path) -> list[Check]:
    """One prompt, two masks in the answer, decoded by scales, by tokens, and in one teacher-forced pass."""
    scripted(method, folder, facts)
    prompt = io["prompt_ids"][None]
    spoken = method.processor.tokenizer.encode(facts["inference"]["prompt"])
    pixels = read(folder, "train_forward")["pixel_values"][:1] if "pixel_values" not in io else io["pixel_values"]
    images = method.backbone.project(method.backbone.patches(pixels)).flatten(0, 1)
    embeddings = method.backbone.place_images(method.backbone.embed(prompt), prompt, images)
    checks = [
        same("prompt ids", torch.tensor(prompt[0, :1].tolist() + spoken), prompt[0]),
        *compare(io, "prompt_embeds", embeddings[0], INPUT),
    ]
    scales, ids = len(method.mask_tokenizer.prefixes), io["visual_ids"]
    by_kind = {}
    for kind in (ScaleByScale, TokenByToken):
        block = Block(method.processor.start_id, lambda kind=kind: kind(method, scales), method.variant.masks)
        with Recorder() as passes:
            valid = torch.ones_like(prompt, dtype=torch.bool)
            answer = decode(method.backbone, embeddings, valid, method.processor.chat.stop_id, block, method.text_rows)[
                0
            ]
        count = scales if kind is ScaleByScale else method.mask_tokenizer.length
        text, visual = split_passes(passes, len(io["gen_token_ids"]), len(ids), count, answer)
        name = "scale by scale" if kind is ScaleByScale else "token by token"
        checks += [
            same(f"{name}: text ids", written(method, answer), io["gen_token_ids"].tolist()),
            same(f"{name}: visual ids", torch.tensor(answer.mask_ids), ids),
            *compare(io, "step_hidden", text, HIDDEN, f"{name}: text states"),
            *compare(io, "visual_hidden", visual, HIDDEN, f"{name}: visual states"),
        ]
        by_kind[kind] = visual
    forced, columns = _forced(method, io, embeddings)
    for kind, visual in by_kind.items():
        checks.append(close(f"one teacher-forced pass and {kind.__name__}", forced[columns], visual, HIDDEN))
    places = facts["teacher_forced_vs_stepwise"]["text_step_positions"]
    targets = torch.tensor(facts["inference"]["schedule"])
    text = F.cross_entropy(method.backbone.head(forced[places]), targets)
    visual = F.cross_entropy(
        method.backbone.head(forced[columns]).flatten(0, 1), method.processor.mask_token_offset + ids.flatten()
    )
    checks += [
        close("teacher-forced text loss", text, torch.tensor(facts["tf_text_loss"]), LOSS),
        close("teacher-forced visual loss", visual, torch.tensor(facts["tf_gen_loss"]), LOSS),
    ]
    return checks + _images(method, io)


def written(method: ARGenSeg, answer: Answer) -> list[int]:
    """Text ids as the reference reports them: the end token for a whole mask, and the stop."""
    stop = [method.processor.chat.stop_id] if answer.finished else []
    return [method.processor.end_id if token == -1 else token for token in answer.text_ids] + stop


def split_passes(passes: list[Tensor], texts: int, masks: int, count: int, answer: Answer) -> tuple[Tensor, Tensor]:
    """States [texts, D] that predicted each reported token, and [masks, T, D] of the masks' `count` passes each."""
    queue, text, visual = iter(passes), [], []
    for token in [*answer.text_ids, 0][:texts]:
        text.append(next(queue)[0, -1])
        if token == -1:
            visual.append(torch.cat([next(queue)[0] for _ in range(count)]))
    return torch.stack(text), torch.stack(visual[:masks])


def _forced(method: ARGenSeg, io: dict[str, Tensor], prompt: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states [L, D] of one pass over the whole answer, and where the slots are [masks, T]."""
    ids = io["tf_input_ids"][None]
    rows, columns = slot_places(ids, method.processor.start_id, method.slots)
    inputs = method.slot_inputs(method.mask_tokenizer.quantize.teacher_forcing(io["visual_ids"]), 1)
    embeddings = method.backbone.embed(ids).index_put((rows, columns[:, 1:]), inputs)
    embeddings = torch.cat([prompt, embeddings[:, prompt.shape[1] :]], 1)
    return method.backbone.run(embeddings)[0], columns


def _images(method: ARGenSeg, io: dict[str, Tensor]) -> list[Check]:
    """What is drawn after each scale and at the end, and the masks that the released evaluation makes of it."""
    ids, quantizer = io["visual_ids"], method.mask_tokenizer.quantize
    sums = [quantizer.accumulate(quantizer.embedding(row[None])) for row in ids]
    drawn = torch.cat([method.mask_tokenizer.decode_features(one[-1]) for one in sums]).clamp(-1, 1)
    scales = torch.stack(
        [torch.from_numpy(to_bytes(method.mask_tokenizer.decode_features(f)[0])).float().mean(-1) for f in sums[0]]
    )
    whole = torch.stack([torch.from_numpy(to_bytes(image)) for image in drawn])
    checks = [
        *compare(io, "picture_float_stride4", drawn[..., ::4, ::4], IMAGE),
        *compare(io, "picture_u8", whole, LEVEL),
        *compare(io, "scale_images_gray_8x", scales[:, ::8, ::8], LEVEL),
    ]
    for name, reference in sorted(io.items()):
        if name.startswith("eval_"):
            kind, _, number = name.removeprefix("eval_").rpartition("_")
            image, size = io["picture_u8"][int(number)], tuple(reference.shape)
            if kind.startswith("pad"):
                image = without_letterbox(image.permute(2, 0, 1), size).permute(1, 2, 0)
            grey = official_grey(image.numpy(), size)
            ours = torch.from_numpy(grey.copy()) if kind.endswith("L") else torch.from_numpy(grey > 127)
            checks.append(same(f"image {number} to {kind}", ours, reference))
    return checks


@torch.no_grad()
def guidance(method: ARGenSeg, io: dict[str, Tensor], facts: dict[str, Any], folder: Path) -> list[Check]:
    """An image from text with classifier-free guidance: two prompts padded on the left, one choice for both."""
    scripted(method, folder, facts)
    valid = io["attention_mask"].bool()
    checks = []
    for row, text in enumerate(facts["cfg"]["prompts"]):
        ids = io["prompt_ids"][row, valid[row]]
        checks.append(
            same(f"prompt ids {row}", torch.tensor(ids[:1].tolist() + method.processor.tokenizer.encode(text)), ids)
        )
    checks.append(same("guided: first tokens", io["sog_ids"], torch.full((len(valid),), method.processor.start_id)))
    block = Block(method.processor.start_id, lambda: Guided(method, facts["cfg"]["cfg"]))
    embeddings = method.backbone.embed(io["prompt_ids"])
    with Recorder() as passes:
        answers = decode(method.backbone, embeddings, valid, method.processor.chat.stop_id, block, method.text_rows)
    start = next(i for i, token in enumerate(answers[0].text_ids) if token == -1) + 1  # after the prompt's pass
    visual = torch.cat(passes[start : start + len(method.mask_tokenizer.prefixes)], 1)
    ids = torch.tensor([answer.mask_ids[0] for answer in answers])
    drawn = method.mask_tokenizer.decode_features(
        method.mask_tokenizer.quantize.accumulate(method.mask_tokenizer.quantize.embedding(ids[:1]))[-1]
    )
    texts = torch.tensor([written(method, answer) for answer in answers])
    return [
        *checks,
        same("guided: text ids", texts, io["gen_token_ids"]),
        same("guided: visual ids", ids[0], io["visual_ids"]),
        *compare(io, "visual_hidden_cond_uncond", visual, HIDDEN),
        *compare(io, "picture_u8", torch.from_numpy(to_bytes(drawn[0])), LEVEL),
    ]


def mask_images(method: ARGenSeg, io: dict[str, Tensor], facts: dict[str, Any], folder: Path) -> list[Check]:
    """Masks as the mask tokenizer's images, squashed and in a letterbox."""
    checks = []
    for name, reference in sorted(io.items()):
        kind, _, number = name.removeprefix("mask_").rpartition("_")
        if kind != "raw":
            raw = Image.fromarray(io[f"mask_raw_{number}"].numpy())
            ours = np.asarray(mask_image(raw, len(reference), "official", letterbox=kind == "pad"))
            checks.append(same(f"mask {number} as an image, {kind}", torch.from_numpy(ours.copy()), reference))
    return checks


PIECES = {
    "train_forward": training,
    "inference": inference,
    "cfg_generation": guidance,
    "mask_preprocess": mask_images,
}
