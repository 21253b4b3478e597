"""What mkdocs does here beside its usual: README.md is the front page, and files of the repository that a page links to
become pages too, so that every link leads somewhere without a network."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", "Makefile": "make"}
AS_THEY_ARE = (".png", ".svg", ".webp", ".html")
SHOWN = 60_000  # characters of a file of code


def on_files(files: Files, config: Any) -> Files:
    """Adds the front page, all that the pages link to, and what these link to in turn."""
    waiting = {"README.md", *(f"docs/{page.src_uri}" for page in files.documentation_pages())}
    known: set[str] = set()
    while waiting:
        path = waiting.pop()
        known.add(path)
        if path.endswith(".md"):
            text = (ROOT / path).read_text(encoding="utf-8")
            waiting |= {found for link in LINK.finditer(text) if (found := _target(path, link[1]))} - known
    for path in sorted(known):
        if not path.startswith("docs/"):
            files.append(_file(path, config))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The same text with links as they are between the pages of the site."""
    here = page.file.src_uri
    origin = _origin(here)

    def moved(link: re.Match[str]) -> str:
        found = _target(origin, link[1])
        place = posixpath.relpath(_place(found), posixpath.dirname(here) or ".") if found else link[1]
        return f"]({place}{link[2] or ''})"

    return LINK.sub(moved, markdown) if origin.endswith(".md") else markdown


def _target(origin: str, link: str) -> str:
    """The file of the repository that a page's link names, a folder's README where it has one; nothing for others."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))
    if (ROOT / path).is_dir() and (ROOT / path / "README.md").is_file():
        path = posixpath.join(path, "README.md")
    return path if (ROOT / path).exists() and not path.startswith("..") else ""


def _place(path: str) -> str:
    """Where a file of the repository stands among the site's sources."""
    if path == "README.md":
        return "index.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"repository/{path}" if path.endswith((".md", *AS_THEY_ARE)) else f"repository/{path}.md"


def _origin(place: str) -> str:
    """The file of the repository that a page of the site shows."""
    if place == "index.md":
        return "README.md"
    path = place.removeprefix("repository/") if place.startswith("repository/") else f"docs/{place}"
    return path if (ROOT / path).is_file() else path.removesuffix(".md")


def _file(path: str, config: Any) -> File:
    """A file as it is, code as a page, a folder as the list of what it holds."""
    full, place = ROOT / path, _place(path)
    if path.endswith((".md", *AS_THEY_ARE)):
        return File.generated(config, place, abs_src_path=str(full))
    if full.is_dir():
        names = sorted(each.name for each in full.iterdir() if each.name[0] not in "._")
        return File.generated(config, place, content=f"# {path}\n\n" + "".join(f"- `{name}`\n" for name in names))
    text = full.read_text(encoding="utf-8", errors="replace")[:SHOWN]
    language = LANGUAGES.get(full.suffix or full.name, "text")
    return File.generated(config, place, content=f"# {path}\n\n~~~~~~{language}\n{text}\n~~~~~~\n")
