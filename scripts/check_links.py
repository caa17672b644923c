"""Checks a built site: every internal link resolves, and nothing is loaded from the network.

    python -m scripts.check_links docs/_build/html

Links inside the site must name a file that is there and, after `#`, an id in it. Scripts, styles,
images and whatever else a browser fetches by itself must be files of the site, or data in the page.
"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "image": ("href", "xlink:href"),
    "img": ("src", "srcset"),
    "input": ("src",),
    "link": ("href",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "track": ("src",),
    "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}
"""What a browser fetches without being asked: tag to its attributes."""
NOT_LOADED = {"author", "canonical", "index", "license", "next", "prev", "search"}
"""Kinds of `<link>` that are not fetched."""
IN_STYLES = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


@dataclass
class Page(HTMLParser):
    """The ids of a page, what it links to and what it loads, each with its line."""

    ids: set[str] = field(default_factory=set)
    links: list[tuple[int, str]] = field(default_factory=list)
    loads: list[tuple[int, str]] = field(default_factory=list)
    in_style: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        line = self.getpos()[0]
        if tag in ("a", "area") and "href" in given:
            self.links.append((line, given["href"]))
        for name in LOADED.get(tag, ()):
            fetched = tag != "link" or not NOT_LOADED & set(given.get("rel", "").split())
            if name in given:
                target = self.loads if fetched else self.links
                target += [(line, url) for url in _urls(name, given[name])]
        if "style" in given:
            self.loads += [(line, url) for url in _styled(given["style"])]
        self.in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self.in_style = False

    def handle_data(self, data: str) -> None:
        if self.in_style:
            self.loads += [(self.getpos()[0], url) for url in _styled(data)]


def _urls(attribute: str, value: str) -> list[str]:
    if attribute == "srcset":
        return [part.split()[0] for part in value.split(",") if part.strip()]
    return [value]


def _styled(text: str) -> list[str]:
    return [one or other for one, other in IN_STYLES.findall(COMMENT.sub("", text))]


@cache
def parsed(path: Path) -> Page:
    """A page, read once."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    return page


def problems(site: Path) -> Iterator[str]:
    """What is wrong with a built site, a line each."""
    pages = sorted(site.rglob("*.html"))
    if not pages:
        yield f"{site}: no pages"
    for path in pages:
        page, name = parsed(path), path.relative_to(site)
        for line, url in page.links:
            if fault := _broken(site, path, url):
                yield f"{name}:{line}: link to {url}: {fault}"
        for line, url in page.loads:
            if fault := _foreign(url) or _broken(site, path, url):
                yield f"{name}:{line}: loads {url}: {fault}"
    for path in sorted(site.rglob("*.css")):
        for url in _styled(path.read_text(encoding="utf-8")):
            if fault := _foreign(url) or _broken(site, path, url):
                yield f"{path.relative_to(site)}: loads {url}: {fault}"


def _foreign(url: str) -> str | None:
    """Whether a browser would leave the site to load this."""
    parts = urlsplit(url)
    return "from the network" if parts.netloc or parts.scheme not in ("", "data") else None


def _broken(site: Path, page: Path, url: str) -> str | None:
    """What is wrong with a link inside the site; None of a right one, or one that leaves it."""
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return None
    path = page if not parts.path else (page.parent / unquote(parts.path)).resolve()
    path = path / "index.html" if path.is_dir() else path
    if not path.is_relative_to(site):
        return "outside of the site"
    if not path.is_file():
        return "no such file"
    fragment = unquote(parts.fragment)
    if fragment and path.suffix == ".html" and fragment not in parsed(path).ids:
        return f"no {fragment!r} in {path.relative_to(site)}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.check_links", description=__doc__)
    parser.add_argument("site", type=Path)
    site = parser.parse_args().site.resolve()
    found = list(problems(site))
    pages = [parsed(path) for path in site.rglob("*.html")]
    links = sum(len(page.links) + len(page.loads) for page in pages)
    print("\n".join(found) if found else f"{len(pages)} pages, {links} links: all resolve")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
