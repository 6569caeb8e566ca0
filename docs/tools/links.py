"""The relative links of our Markdown: what they name, and whether it is there. For the site and for a unit test."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
READMES = {"README.md": "project.md", "services/api/README.md": "api.md", "toolchain/plugins/README.md": "stand-ins.md"}
"""Markdown outside docs/ that the site has as a page: file to page."""

CODE = re.compile(r"^(`{3,}|~{3,}).*?^\1`*$|(`+)[^`].*?\2", re.M | re.S)
LINK = re.compile(r"(!?\[[^\[\]]*(?:!\[[^\]]*\]\([^)]*\)[^\[\]]*)?\]\()([^)\s]+)((?:\s+\"[^\"]*\")?\))")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.M)


def pages() -> list[str]:
    """Our Markdown files, from the repository's root."""
    return [*READMES, *(str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("docs/**/*.md")) if "tools" not in p.parts)]


def _apart(text: str) -> Iterator[tuple[bool, str]]:
    """The text in pieces: (is it code, piece)."""
    at = 0
    for found in CODE.finditer(text):
        yield False, text[at : found.start()]
        yield True, found[0]
        at = found.end()
    yield False, text[at:]


def relink(text: str, change: Callable[[str], str]) -> str:
    """The text with `change` of every link that is relative; code stays."""

    def one(found: re.Match[str]) -> str:
        relative = not re.match(r"[a-z]+:|/", found[2])
        return found[1] + (change(found[2]) if relative else found[2]) + found[3]

    # The label of a link may be code, which cuts the link in two: code is put aside under a mark, and put back.
    codes: list[str] = []
    marked = ""
    for code, piece in _apart(text):
        if code:
            codes.append(piece)
            piece = f"\0{len(codes) - 1}\0"
        marked += piece
    return re.sub("\0([0-9]+)\0", lambda mark: codes[int(mark[1])], LINK.sub(one, marked))


def links(page: str) -> list[tuple[str, str]]:
    """(file or folder, anchor) of every relative link, from the repository's root."""
    found: list[tuple[str, str]] = []

    def note(link: str) -> str:
        path, _, anchor = link.partition("#")
        found.append((posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page, anchor))
        return link

    relink((ROOT / page).read_text(), note)
    return found


def anchors(page: str) -> set[str]:
    """What a link into this page may name: its headings, as GitHub and the site write them, and ids given by hand."""
    text = (ROOT / page).read_text()
    prose = "".join("" if code and piece.startswith(("```", "~~~")) else piece for code, piece in _apart(text))
    found: set[str] = set(re.findall(r'<a (?:id|name)="([^"]+)"', prose))
    for title in HEADING.findall(prose):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.add(slug if slug not in found else f"{slug}-1")
    return found
