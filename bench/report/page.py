"""One page of a profile's results, `index.html`: the answer, the papers' claims, tables, figures, provenance.

It needs no script and holds its figures, so that it opens from a disk and can be sent; what lies beside it (tables as
files, the study, the samples) is linked. The same records give the same bytes.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jinja2
from markupsafe import Markup
from PIL import Image

from bench.records import Record
from bench.report import layout
from bench.report.names import method_name, place_name
from bench.report.summary import sentences

# Section -> the names of its tables and figures; those that a profile lacks are left out.
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "What the papers claim": ("claims",),
    "Results": ("benchmarks", "main"),
    "Where points are lost": ("budget", "budget_parts", "object_sizes", "breakdown", "perception"),
    "Tokens and scales": (
        "prefixes",
        "ablation_lengths",
        "reconstruction_bound",
        "hierarchy",
        "mask_tokenizers",
        "reconstruction",
        "ablation",
    ),
    "Where the time goes": (
        "latency_stages",
        "latency_roofline",
        "latency",
        "speedup",
        "orders",
        "roofline",
        "scaling",
        "rounding",
    ),
    "Understanding kept": ("understanding",),
    "Training": ("training", "training_cost"),
    "Examples": ("examples", "own_words"),
    "All scores": ("accuracy_splits", "accuracy", "published"),
    "Provenance": ("provenance",),
}
FOLDED = ("ablation", "reconstruction", "breakdown", "roofline", "scaling", "accuracy", "published", "orders")
TITLES = {
    "ablation": "every ablation", "reconstruction": "reconstructions by number of tokens",
    "breakdown": "by attributes of the expression", "roofline": "work and floor of each stage", "scaling": "scaling",
    "accuracy": "every metric on every split", "published": "the papers' figures", "orders": "decoding orders",
}  # fmt: skip
CHART = "summary"
WHAT = {
    CHART: "Accuracy over latency, with intervals",
    "accuracy_splits": "Accuracy on every split, with 95 % intervals",
    "object_sizes": "gIoU by object size, with 95 % intervals; dashed: ground truth after encoding and decoding",
    "ablation_lengths": "Accuracy of answers of which only the first mask tokens are decoded, with 95 % bands",
    "reconstruction_bound": "Ground truth after encoding and decoding, over the number of mask tokens, with 95 % bands",
    "hierarchy": "Ablation of the hierarchical mask loss: answers (a point for each seed), and reconstruction from the "
    "first tokens",
    "mask_tokenizers": "Mask tokenizers trained in another way, beside the one that was evaluated",
    "prefixes": "Masks decoded from the first tokens of an answer, from few to all",
    "training": "Training: quality of the mask tokenizer, loss of the language model, accuracy of the answers",
    "latency_stages": "Median latency by stage; the mark is the floor of all stages together",
    "latency_roofline": "Latency of each stage (filled) beside its floor from measured bandwidth and arithmetic "
    "(hollow), and the floor's share of it",
    "budget_parts": "Error budget: where the points between 100 and the gIoU are lost",
    "scaling": "Latency of a call over what it is asked for: medians and fitted lines",
    "examples": "Answers from the best to the worst IoU of the first method",
    "own_words": "Answers to expressions that people wrote",
}
PIXEL = 1.6  # pixels of the page for a point of a figure: a bit larger than in print
PHOTOGRAPH = 0.75  # pixels of the page for a pixel of a photograph, whose words are large
COLUMN = 480  # pixels: wider figures scroll on a phone
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=jinja2.select_autoescape(("html",)),
    trim_blocks=True, undefined=jinja2.StrictUndefined,
)  # fmt: skip
RANDOM = "The weights of {} were never trained: their figures show that everything runs, and nothing else."


def write(folder: Path, title: str, tables: Mapping[str, Sequence[layout.Table]], records: Iterable[Record]) -> str:
    """The page as text. folder: results/<profile>, whose images in `figures` are shown.

    tables: the name of the files in `tables` -> what they hold.
    """
    records, said = list(records), set[str]()
    sections = []
    for heading, names in SECTIONS.items():
        parts = [part for name in names for part in (*_images(folder, name), _tables(name, tables, said)) if part]
        if parts:
            anchor = re.sub(r"\W+", "-", heading.lower())
            sections.append({"anchor": anchor, "heading": heading, "body": Markup("\n".join(_beside(parts)))})
    return TEMPLATES.get_template("page.html").render(
        title=_title(records, title), subtitle=_subtitle(records), sections=sections, warnings=_warnings(records),
        sentences=sentences(records, tables.get("claims", ())), chart=_chart(folder), links=_links(folder),
    ) + "\n"  # fmt: skip


def document(title: str, body: str, subtitle: str = "") -> str:
    """A page of its own in the same style. body: HTML."""
    return TEMPLATES.get_template("document.html").render(title=title, body=Markup(body), subtitle=subtitle) + "\n"


def _title(records: Sequence[Record], profile: str) -> str:
    """The methods that were measured, as "ARGenSeg and HiMTok, nano"."""
    names = sorted({method_name(r.method) for r in records if r.checkpoint and not r.variant}, key=str.lower)
    if not names or len(names) > 5:
        return f"Results of {profile}"
    return f"{', '.join(names[:-1])} and {names[-1]}, {profile}" if len(names) > 1 else f"{names[0]}, {profile}"


def _subtitle(records: Sequence[Record]) -> str:
    dates = sorted({record.date for record in records if record.date})
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}" if dates else ""
    return f"Measured {span}, genseg-bench {records[0].revision}" if span else ""


def _warnings(records: Sequence[Record]) -> list[str]:
    """What must be said before any figure."""
    untrained = sorted({method_name(r.method) for r in records if "random weights" in r.note})
    return [RANDOM.format(" and ".join(untrained))] if untrained else []


def _chart(folder: Path) -> dict[str, Any] | None:
    """The chart beside the answer."""
    path = folder / "figures" / f"{CHART}.svg"
    if not path.is_file():
        return None
    width, height = _size(path)
    return {"src": data_uri(path), "text": WHAT[CHART], "width": width, "height": height}


def _size(path: Path) -> tuple[int, int]:
    """Width and height of an image in pixels of the page."""
    if path.suffix != ".svg":
        try:
            with Image.open(path, formats=("WEBP",)) as image:
                return round(PHOTOGRAPH * image.width), round(PHOTOGRAPH * image.height)
        except OSError:  # no image: the browser shows its text
            return 0, 0
    size = re.search(rb'width="([\d.]+)pt" height="([\d.]+)pt"', path.read_bytes()[:2000])
    return (round(PIXEL * float(size[1])), round(PIXEL * float(size[2]))) if size else (0, 0)


def _links(folder: Path) -> list[dict[str, str]]:
    """What lies beside the page, where it does."""
    beside = {"STUDY.md": "The study", "browser/index.html": "Browse the samples"}
    return [{"href": name, "text": text} for name, text in beside.items() if (folder / name).is_file()]


def _tables(name: str, tables: Mapping[str, Sequence[layout.Table]], said: set[str]) -> str:
    if not tables.get(name):
        return ""
    files = ", ".join(f'<a href="tables/{name}.{kind}">{kind}</a>' for kind in ("md", "csv", "tex"))
    text = f'{_verdicts(layout.html(*tables[name], said=said))}\n<p class="files">This table as {files}</p>'
    title = TITLES.get(name, name)
    folded = name in FOLDED
    return f"<details><summary>Table: {escape(title)}</summary>\n{text}\n</details>" if folded else text


def _verdicts(html: str) -> str:
    """The verdicts' cells with a colour beside their words."""
    return re.sub(r"<td>((reproduced|contradicted|not)(?: decided| measured here)?)</td>",
                  r'<td><span class="verdict verdict-\2">\1</span></td>', html)  # fmt: skip


def _images(folder: Path, name: str) -> list[str]:
    """Drawings and photographs of that name, or whose name begins with it and a point."""
    found = [path for kind in ("svg", "webp") for stem in (name, f"{name}.*")
             for path in sorted((folder / "figures").glob(f"{stem}.{kind}"))]  # fmt: skip
    return [_figure(path, WHAT.get(name, name)) for path in found]


def _figure(path: Path, text: str) -> str:
    """A figure with its caption, in the size in which its words can be read."""
    about = f"{text}: {_of(path)}" if "." in path.stem else text
    width, height = _size(path)
    wide = ' wide" tabindex="0' if width > COLUMN else ""
    size = f' width="{width}" height="{height}"' if width else ""
    room = f' style="max-width:{width}px"' if width else ""
    if width and path.suffix != ".svg":  # never smaller, so that its words can be read: it scrolls
        size += f' style="width:{width}px"'
    return (
        f'<figure class="plot{wide}"{room}><img src="{data_uri(path)}" alt="{escape(about)}"{size}>'
        f"<figcaption>{escape(about)}.</figcaption></figure>"
    )


def _of(path: Path) -> str:
    """The method, the place or the backbone that a figure's file is named after."""
    told = [unquote(part) for part in path.stem.split(".")[1:]]
    return place_name(*told) if len(told) == 3 else method_name(".".join(told))


def _beside(parts: Sequence[str]) -> list[str]:
    """Parts of a section, with figures that follow each other in one block, in which they stand beside each other."""
    blocks = []
    for figures, own in groupby(parts, key=lambda part: part.startswith("<figure")):
        run = list(own)
        blocks += ['<div class="figures">\n' + "\n".join(run) + "\n</div>"] if figures else run
    return blocks


def data_uri(path: Path) -> str:
    """An image in the page itself."""
    kind = "svg+xml" if path.suffix == ".svg" else path.suffix[1:]
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
