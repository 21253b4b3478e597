"""An image from a sentence: `genseg generate`, for methods whose mask vocabulary can write any image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.config import Profile
from bench.outputs import check_free, write_image
from bench.runtime import device_of
from bench.train.models import find_model
from methods.base import UserError
from methods.files import check_text
from methods.registry import METHODS, method_class, method_spec


def generate_file(
    profile: Profile, caption: str, method: str, out: Path, checkpoint: Path | None, guidance: float, seed: int | None
) -> Iterator[str]:
    """Write the image to `out` and yield lines for the user.

    seed: draws the tokens; None takes the likeliest ones. Raises UserError for an empty sentence, a method that the
    profile lacks or that writes masks only, or a path that cannot be written.
    """
    check_text(caption, "The caption")
    if not caption.strip():
        raise UserError('The caption is empty; describe an image, e.g. "a red apple on grass".')
    if checkpoint is None and method not in profile.models:
        raise UserError(f"Profile {profile.name} has no model of {method!r}; choose {' or '.join(profile.models)}.")
    if not method_spec(method).image_generation:
        able = ", ".join(name for name in METHODS if method_spec(name).image_generation)
        raise UserError(f"{method} writes masks only; choose {able}.")
    check_free(out)
    folder = checkpoint or find_model(profile, method)
    model = method_class(method).from_pretrained(folder).to(device_of())
    image = model.generate([caption.strip()], guidance=guidance, seed=seed)[0]
    write_image(image, out)
    yield f"{out}: {caption!r} by {method} ({folder}), {image.width}x{image.height} pixels"
