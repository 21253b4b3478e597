"""The sample browser of a profile: `genseg show`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.config import Profile
from bench.evaluate.predictions import settings_of
from bench.report.browser.samples import Sample, read_samples, spread
from bench.report.browser.steps import Step, decode_steps, evenly
from bench.report.browser.write import OpenDataset, draw, folder_files, head_of, one_page, write_files
from methods.files import printable

STEPPED = 24  # samples with masks on the way, unless another number is given


def write_browser(
    profile: Profile, open_dataset: OpenDataset, out: Path | None = None, samples: int = 0, inline: int = 0,
    stepped: int = STEPPED,
) -> Path:  # fmt: skip
    """Write the browser of the answers in the profile's runs folder -> its page.

    out: the folder, by default `browser` in the profile's results. samples: how many, at equal distances; 0 for all.
    inline: so many in one page that holds its images, in place of a folder; 0 for a folder. stepped: samples whose
    masks are decoded from their first tokens too. Raises UserError if there are no scores, for images that are not at
    hand, and for files in the folder that were not written here.
    """
    found = spread(read_samples(profile.runs_dir / "scores"), inline or samples)
    methods = list(dict.fromkeys(method for sample in found for method in sample.answers))
    chosen = spread(found, stepped) if stepped else []
    steps = {method: masks_on_the_way(profile, method, chosen) for method in methods}
    drawn, head = draw(found, methods, open_dataset, steps), head_of(profile.name, methods, found)
    files = {"index.html": one_page(head, drawn)} if inline else folder_files(head, drawn)
    return write_files(out or profile.results_dir / "browser", files)


def masks_on_the_way(
    profile: Profile, label: str, samples: Sequence[Sample], choose: Callable[[Sequence[int]], list[int]] = evenly
) -> dict[str, list[Step]]:
    """Name of a sample -> the masks on the way of one method's answer, after the numbers of tokens that are chosen;
    none, with a sentence on stderr, where the weights that wrote the answers are not at hand."""
    from bench.train.models import existing_model  # reaches torch, which the rest of a report does not need

    answered = [sample for sample in samples if (sample.answers.get(label) or {}).get("token_ids")]
    if not answered:
        return {}
    rows = [sample.answers[label] for sample in answered]
    method = str(rows[0]["method"])
    weights = existing_model(profile, method) if method in profile.models else None
    reason = _fault(profile, method, weights)
    if weights is None or reason:
        print(printable(f"No masks on the way of {label}: {reason}."), file=sys.stderr)
        return {}
    found = decode_steps(method, weights, rows, choose)
    return dict(zip((sample.name for sample in answered), found, strict=True))


def _fault(profile: Profile, method: str, weights: Path | None) -> str:
    """Why the masks on the way cannot be decoded; "" if they can."""
    from bench.runtime import digest  # reaches torch

    if weights is None:
        return f"its weights are not at hand; name their folder with models.{method}=FOLDER"
    made_by = {
        settings_of(path).get("weights") for path in (profile.runs_dir / "predictions").glob(f"{method}.*.jsonl")
    }
    if digest(weights, profile.mask_tokenizer_of(method)) not in made_by:
        return f"{weights} did not write these answers"
    return ""
