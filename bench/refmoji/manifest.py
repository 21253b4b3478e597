"""The frozen evaluation questions: layouts and expressions of every evaluation split, committed as gzipped JSON.

A build draws the evaluation images from here. A change of the renderer may then move edge pixels, but never the
questions. `python -m bench.refmoji.manifest LEVEL` writes the file again after a wanted change of the generator.
"""

from __future__ import annotations

import gzip
import json
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.refmoji.draft import Draft, draft
from bench.refmoji.levels import SPLIT_NUMBERS, Level, level_named
from bench.refmoji.lexicon import FOLDER
from methods.base import UserError

SEED = 0  # of the evaluation scenes, whatever the training seed


def manifest_path(level: str) -> Path:
    """Where the questions of a level are kept."""
    return FOLDER / f"questions-{level}.json.gz"


@lru_cache(maxsize=5)
def load(level: str) -> dict[str, list[dict[str, Any]]]:
    """Evaluation split -> its scenes: records {scene, referents, questions}."""
    path = manifest_path(level)
    try:
        return json.loads(gzip.decompress(path.read_bytes()))["splits"]
    except FileNotFoundError:
        raise UserError(f"{path}: missing; restore it or run python -m bench.refmoji.manifest {level}.") from None
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a readable manifest ({error}); restore it from the repository.") from None


def record(made: Draft) -> dict[str, Any]:
    """What a manifest keeps of a draft."""
    return {"scene": made.scene.to_json(), "referents": made.referents, "questions": made.questions}


def regenerate(level: Level, split: str, scenes: int | None = None) -> list[dict[str, Any]]:
    """The scenes of an evaluation split, made from their seeds until the split has its number of referents
    (or only the first `scenes` of them)."""
    records: list[dict[str, Any]] = []
    missing = level.splits[split]
    while missing > 0 and (scenes is None or len(records) < scenes):
        made = record(draft(level, split, SEED, len(records)))
        made["referents"] = made["referents"][:missing]
        missing -= len(made["referents"])
        records.append(made)
    return records


def verify(level: Level, scenes: int | None = None) -> None:
    """Raise UserError unless seeds still give the frozen questions (of the first `scenes` scenes of each split)."""
    frozen = load(level.key)
    for split in level.splits:
        for number, made in enumerate(regenerate(level, split, scenes)):
            if json.loads(json.dumps(made)) != frozen[split][number]:
                raise UserError(
                    f"{manifest_path(level.key)}: scene {number} of {split} no longer follows from its seed; undo the "
                    f"change of the generator or freeze the questions again (python -m bench.refmoji.manifest)."
                )


def freeze(level: Level) -> Path:
    """Write the manifest of a level."""
    splits = {split: regenerate(level, split) for split in SPLIT_NUMBERS if split in level.splits}
    text = json.dumps({"level": level.key, "seed": SEED, "splits": splits}, separators=(",", ":"), ensure_ascii=False)
    path = manifest_path(level.key)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    return path


if __name__ == "__main__":
    for name in sys.argv[1:]:
        made_path = freeze(level_named(name))
        print(f"{made_path} {made_path.stat().st_size} bytes")
