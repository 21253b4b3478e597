"""What comes with the code: dataset cards, the embedded dataset's drawings, published figures, the small models.

In a checkout they lie at the top, where a user looks for them (datasets/, results/); a wheel carries copies in
bench/_assets (setup.py), so that an installed `genseg` runs from any folder.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE / "_assets" if (HERE / "_assets").is_dir() else HERE.parent


def asset(*parts: str) -> Path:
    """The place of a bundled file or folder, e.g. asset("datasets", "refmoji"); it need not exist."""
    return ROOT.joinpath(*parts)
