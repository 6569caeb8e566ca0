"""What mkdocs does not do by itself: READMEs as pages, links out of docs/, the programs that pages load.

A link to a file of the repository leads to a page with its text, made here, so that the site needs no network and no
address of a repository; the Markdown stays as it is, and reads as well where the repository is read.
"""

from __future__ import annotations

import posixpath
from pathlib import Path

import links
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

log = get_plugin_logger("links")
LOADED = {
    "assets/mermaid.js": "@mermaid-js/tiny/dist/mermaid.tiny.js",
    "assets/iframe-worker.js": "iframe-worker/shim/index.js",
}
"""File of the site to file of node_modules."""
LANGUAGES = {".py": "python", ".js": "javascript", ".json": "json", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml"}
HIDDEN = "---\nsearch:\n  exclude: true\n---\n\n"

origins: dict[str, str] = {}
"""Page of the site to the file of the repository that it shows."""


def _uri(path: str) -> str:
    """Where the site has this file or folder of the repository."""
    if path in links.READMES:
        return links.READMES[path]
    if path.startswith("docs/") and not path.startswith("docs/tools/") and (links.ROOT / path).is_file():
        return path.removeprefix("docs/")
    return f"files/{path}" if Path(path).suffix in {".png", ".svg"} else f"files/{path}.md"


def _shown(path: str) -> str:
    """The page that shows a file's text or lists a folder."""
    file = links.ROOT / path
    if file.is_dir():
        listed = "\n".join(f"- [{p.name}]({p.name})" for p in sorted(file.iterdir()) if p.suffix != ".pyc")
        return f"{HIDDEN}# {path}\n\n{listed}\n"
    language = LANGUAGES.get(file.suffix, "bash" if file.read_text().startswith("#!") else "text")
    return f"{HIDDEN}# {path}\n\n~~~~~~{language}\n{file.read_text()}\n~~~~~~\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages and files that are not in docs/: READMEs, and whatever a page links to."""
    for uri, program in LOADED.items():
        source = str(Path(__file__).parent / "node_modules" / program)
        files.append(File.generated(config, uri, abs_src_path=source))
    origins.clear()
    for path, uri in links.READMES.items():
        origins[uri] = path
        files.append(File.generated(config, uri, abs_src_path=str(links.ROOT / path)))
    linked = [(page, target) for page in links.pages() for target, _ in links.links(page)]
    for page, target in linked:
        uri = _uri(target)
        if not (links.ROOT / target).exists():
            log.warning("%s links to %s, which is not there", page, target)
        elif uri.startswith("files/") and uri not in origins:
            origins[uri] = target
            if not uri.endswith(".md"):
                files.append(File.generated(config, uri, abs_src_path=str(links.ROOT / target)))
                continue
            text = _shown(target)
            files.append(File.generated(config, uri, content=text, inclusion=InclusionLevel.NOT_IN_NAV))
            if (links.ROOT / target).is_dir():
                linked += [(target, f"{target}/{child.name}") for child in (links.ROOT / target).iterdir()]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between files of the repository become links between pages of the site."""
    uri = page.file.src_uri
    path = origins.get(uri, f"docs/{uri}")
    folder = path if (links.ROOT / path).is_dir() else posixpath.dirname(path)

    def change(link: str) -> str:
        target, mark, anchor = link.partition("#")
        if not target:
            return link
        there = _uri(posixpath.normpath(posixpath.join(folder, target)))
        return posixpath.relpath(there, posixpath.dirname(uri) or ".") + mark + anchor

    return links.relink(markdown, change)
