"""Image understanding on lmms-eval: a model for that harness, and its results in our records (docs/lmms_eval.md)."""

from __future__ import annotations

from typing import Any

TESTED = "0.7.3"  # the version of lmms-eval that the model is made for; results of other versions do not compare
MODEL = "genseg"  # the model's name there


def manifest() -> Any:
    """What the entry point `lmms_eval.models` of this package tells lmms-eval: a ModelManifest."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(MODEL, chat_class_path="bench.evaluate.lmms.model.Genseg")
