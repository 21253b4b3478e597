"""What of a method is trained in a stage: the stage's own rule, then the profile's freeze list, adapters, and
activation checkpointing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from bench.config import StageConfig, TrainConfig
from bench.train.engine import freeze, matching
from methods.base import Trainee, UserError
from methods.registry import stage_spec

SMALL = 10**9  # frozen parameters of a method's part (backbone, mask tokenizer) that every process can hold whole


def enter(method: Trainee, stage: StageConfig, train: TrainConfig) -> None:
    """Put a method into a stage of training. Raises UserError for what cannot be done."""
    method.enter_stage(stage.stage)
    if stage_spec(stage.method, stage.stage).mask_tokenizer and train.zero:
        raise UserError("A tokenizer's stage moves codes in place, of which ZeRO keeps copies; set train.zero=0.")
    if stage_spec(stage.method, stage.stage).mask_tokenizer and stage.max_length:
        raise UserError("A tokenizer's stage has no text to be cut; leave out its max_length.")
    freeze(method, stage.freeze)
    if stage.lora:
        add_adapters(method, stage.lora)
    if train.checkpoint_activations:
        checkpoint_activations(method)
    if not any(p.requires_grad for p in method.parameters()):
        raise UserError("Nothing is left to be trained; shorten stages.*.freeze.")


def frozen_parts(module: nn.Module) -> list[tuple[nn.Module, str, nn.Module | nn.Parameter]]:
    """(parent, name, part) of the outermost parts that train nothing and that every process can hold whole: modules,
    and parameters that stand directly in a module of which other parts train. A child of `module` that has more than
    SMALL frozen parameters has none of these: a backbone under adapters, say, is to be shared out as if it trained."""
    found = _frozen_parameters(module)
    for name, child in module.named_children():
        frozen = [p.numel() for p in child.parameters() if not p.requires_grad]
        if sum(frozen) < SMALL:
            found += [(module, name, child)] if len(frozen) == len(list(child.parameters())) else _frozen_inside(child)
    return found


def _frozen_inside(module: nn.Module) -> list[tuple[nn.Module, str, nn.Module | nn.Parameter]]:
    found = _frozen_parameters(module)
    for name, part in module.named_children():
        if any(p.requires_grad for p in part.parameters()):
            found += _frozen_inside(part)
        else:
            found.append((module, name, part))
    return found


def _frozen_parameters(module: nn.Module) -> list[tuple[nn.Module, str, nn.Module | nn.Parameter]]:
    return [(module, name, p) for name, p in module.named_parameters(recurse=False) if not p.requires_grad]


def parameters_of(part: nn.Module | nn.Parameter) -> list[nn.Parameter]:
    """Those of a part that `frozen_parts` found."""
    return [part] if isinstance(part, nn.Parameter) else list(part.parameters())


def checkpoint_activations(method: nn.Module) -> None:
    """Turn it on in every model of transformers that a method holds."""
    done: list[str] = []
    for path, part in method.named_modules():
        if hasattr(part, "gradient_checkpointing_enable") and not any(path.startswith(f"{top}.") for top in done):
            part.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            done.append(path)


def add_adapters(method: Trainee, settings: Mapping[str, Any]) -> None:
    """Low-rank adapters on the layers that peft's LoraConfig names; all other weights stay as they are, except those
    that fit a pattern of `also`. Raises UserError for adapters that would not learn or could not be merged."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("stages.*.lora needs peft; install it with `pip install peft`.") from None
    settings = dict(settings)
    also = settings.pop("also", [])
    before = set(method.state_dict())
    try:
        inject_adapter_in_model(LoraConfig(**settings), method)
    except Exception as error:  # peft refuses settings with many kinds
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UserError(f"stages.*.lora does not fit ({reason}); see LoraConfig in peft's documentation.") from None
    _check_adapters(method, before)
    parameters = dict(method.named_parameters())
    for pattern in also:
        for name in matching(pattern, parameters):
            parameters[name].requires_grad_(True)


def _check_adapters(method: Trainee, before: set[str]) -> None:
    """Refuse adapters that take no part in the loss, and those that `merge_adapters` cannot take out again."""
    mask_tokenizer = set(method.mask_tokenizer.modules()) if isinstance(method.mask_tokenizer, nn.Module) else set()
    inside = {id(part) for part in mask_tokenizer}
    for path, part in method.named_modules():
        if not hasattr(part, "base_layer") and not hasattr(part, "original_module"):
            continue
        if id(part) in inside or isinstance(getattr(part, "base_layer", None), nn.MultiheadAttention):
            raise UserError(
                f"stages.*.lora: {path} is read without its adapter, which would learn nothing; name layers of the "
                "language model or the vision tower in target_modules, e.g. q_proj."
            )
    if {_merged_name(name) for name in method.state_dict()} - {""} != before:
        raise UserError(
            "stages.*.lora: these settings change the model in a way that cannot be merged at the end; leave out what "
            "is neither low-rank adapters nor modules_to_save."
        )


def _merged_name(name: str) -> str:
    """What a parameter of a model with adapters is called after merging; "" if it is merged into another."""
    parts = name.split(".")
    if any(part.startswith("lora_") or part == "original_module" for part in parts):
        return ""
    kept = []
    for before, part in zip(["", *parts], parts, strict=False):
        if part not in ("base_layer", "modules_to_save") and before != "modules_to_save":  # then the adapter's name
            kept.append(part)
    return ".".join(kept)


def merge_adapters(method: nn.Module) -> None:
    """Add the adapters to the weights under them, put modules_to_save in their places, and take both out, so that the
    model has its own names again."""
    for path, part in reversed(list(method.named_modules())):  # the inner ones first
        if hasattr(part, "base_layer") and hasattr(part, "merge"):
            part.merge()
            trained = part.base_layer
        elif hasattr(part, "original_module") and hasattr(part, "modules_to_save"):
            (trained,) = part.modules_to_save.values()
        else:
            continue
        above, _, name = path.rpartition(".")
        setattr(method.get_submodule(above), name, trained)
