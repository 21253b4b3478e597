"""One picture, one sentence, one mask: `genseg segment`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.config import Profile
from bench.pipeline import device_of, find_model
from bench.report.sheet import ANSWER, overlay
from methods.base import Request, UserError, open_image
from methods.registry import method_class


def segment_file(
    profile: Profile, image: Path, expression: str, method: str, out: Path, checkpoint: Path | None
) -> Iterator[str]:
    """Write the overlay to `out` and yield lines for the user: the answer, the box, where the time went.

    Raises UserError for a file that is no picture, an empty sentence, or a method that the profile lacks.
    """
    if not expression.strip():
        raise UserError('The expression is empty; describe one thing in the picture, e.g. "the red car".')
    if checkpoint is None and method not in profile.models:
        raise UserError(f"Profile {profile.name} has no model of {method!r}; choose {' or '.join(profile.models)}.")
    picture = open_image(image)
    folder = checkpoint or find_model(profile, method)
    model = method_class(method).from_pretrained(folder).to(device_of())
    prediction = model.segment([Request(picture, (expression.strip().lower(),), ("mask", "box"))])[0]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        overlay(picture, prediction.mask, ANSWER, prediction.box).save(out)
    except (ValueError, OSError) as error:
        raise UserError(f"{out}: cannot be written ({error}); give a path that ends in .png or .jpg.") from None
    yield f"{out}: {expression!r} by {method} ({folder})"
    share = float(prediction.mask.mean())
    yield f"mask: {share:.1%} of the picture in {len(prediction.token_ids)} tokens, {prediction.steps} model steps"
    if prediction.box:
        yield "box: " + ", ".join(f"{value:.0f}" for value in prediction.box) + " (x1, y1, x2, y2 in pixels)"
    yield "time: " + ", ".join(f"{stage} {1e3 * value:.0f} ms" for stage, value in prediction.seconds.items())
    if prediction.failure:
        yield f"incomplete answer: {prediction.failure}"
