"""The documentation: links lead somewhere, commands exist, every page is in the navigation, the picture is true."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import bench.cli
import cluster.cli
import images.cli
import ops.cli

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "tools"))

import architecture  # noqa: E402
import links  # noqa: E402

PAGES = links.pages()
PROGRAMS: dict[str, Any] = {
    name: typer.main.get_command(module.app)
    for name, module in {"bench": bench.cli, "cluster": cluster.cli, "images": images.cli, "ops": ops.cli}.items()
}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    dead = []
    for target, anchor in links.links(page):
        if not (ROOT / target).exists():
            dead.append(target)
        elif anchor and target.endswith(".md") and anchor not in links.anchors(target):
            dead.append(f"{target}#{anchor}")
    assert dead == []


def test_links_in_code_are_text() -> None:
    text = "[a](b.md) `[c](d.md)`\n```\n[e](f.md)\n```\n[`g`](h.md#i) ![j](k.png) [l](https://m)"
    assert links.relink(text, lambda link: f"<{link}>") == (
        "[a](<b.md>) `[c](d.md)`\n```\n[e](f.md)\n```\n[`g`](<h.md#i>) ![j](<k.png>) [l](https://m)"
    )


def commands(page: str) -> Iterator[list[str]]:
    """Words of every command of ours: `python -m ops …`, or `ops …` in the text."""
    text = (ROOT / page).read_text()
    names = "|".join(PROGRAMS)
    for found in re.finditer(rf"(?:python -m |`)({names})(?= )([^`\n#|;…]*)", text):
        yield [found[1], *found[2].split()]


def unknown(words: list[str]) -> str | None:
    """The first word that is no command and no option of ours."""
    command, rest = PROGRAMS[words[0]], words[1:]
    options: set[str] = {"--help"}
    for word in rest:
        word = word.strip("[]().,:")
        if word == "--":
            break
        if word.startswith("-"):
            options |= {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
            if word.split("=")[0] not in options:
                return word
        elif hasattr(command, "commands"):
            if word not in command.commands:
                return word
            command = command.commands[word]
    return None


@pytest.mark.parametrize("page", PAGES)
def test_every_command_exists(page: str) -> None:
    assert {" ".join(words): bad for words in commands(page) if (bad := unknown(words))} == {}


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", (ROOT / page).read_text(), re.M)) <= targets


def test_every_page_is_in_the_navigation() -> None:
    def pages(nav: Any) -> Iterator[str]:
        if isinstance(nav, str):
            yield nav
        else:
            for part in nav.values() if isinstance(nav, dict) else nav:
                yield from pages(part)

    listed = sorted(pages(yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)["nav"]))  # noqa: S506 - text only
    assert listed == sorted(
        [*links.READMES.values(), *(p.removeprefix("docs/") for p in PAGES if p.startswith("docs/"))]
    )


def test_the_picture_is_the_programs() -> None:
    page = architecture.PAGE.read_text()
    assert architecture.drawn(page) == page, "docs/architecture.md is not what infra/ declares: make docs draws it anew"
