"""Checks a built site: every internal link resolves, and nothing is loaded from the network.

    python -m scripts.check_links docs/_build/html

A link inside the site must name a file that exists and, after `#`, an id in it. Scripts, styles,
images and whatever else a browser fetches by itself must be files of the site, or data in the page.
"""

import argparse
import re
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["problems"]

FETCHED = {"src", "srcset", "poster", "data", "xlink:href"}
"""Attributes with addresses that a browser fetches without being asked."""
HREF_FETCHED = {"link", "image", "use"}
"""Tags whose `href` it fetches too."""
NOT_FETCHED = {"author", "canonical", "index", "license", "next", "prev", "search"}
"""Kinds of `<link>` that it does not fetch."""
IN_STYLES = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


class Page(HTMLParser):
    """The ids of a page and its addresses, each with its line and whether a browser fetches it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.addresses: list[tuple[int, str, bool]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        found = [(url, True) for url in styled(given.get("style", ""))]
        if "href" in given:
            skipped = NOT_FETCHED & set(given.get("rel", "").split())
            found.append((given["href"], tag in HREF_FETCHED and not skipped))
        for name in FETCHED & set(given):
            urls = given[name].split(",") if name == "srcset" else [given[name]]
            found += [(url.split()[0], True) for url in urls if url.strip()]
        self.addresses += [(self.getpos()[0], *each) for each in found]

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "style":
            self.addresses += [(self.getpos()[0], url, True) for url in styled(data)]


def styled(text: str) -> list[str]:
    """The addresses that a style sheet loads."""
    return [one or other for one, other in IN_STYLES.findall(COMMENT.sub("", text))]


@cache
def parsed(path: Path) -> Page:
    """A page, which is read once."""
    return Page(path.read_text(encoding="utf-8"))


def problems(site: Path) -> Iterator[str]:
    """The faults of a built site, one per line."""
    pages = sorted(site.rglob("*.html"))
    if not pages:
        yield f"{site}: no pages"
    found = [(path, *each) for path in pages for each in parsed(path).addresses]
    for path in sorted(site.rglob("*.css")):
        found += [(path, 1, url, True) for url in styled(path.read_text(encoding="utf-8"))]
    for path, line, url, fetched in found:
        if fault := _fault(site, path, url, fetched):
            yield f"{path.relative_to(site)}:{line}: {url}: {fault}"


def _fault(site: Path, page: Path, url: str, fetched: bool) -> str | None:
    """The fault of an address on a page; None if it is right, or a link that leaves the site."""
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return "loaded from the network" if fetched and parts.scheme != "data" else None
    path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
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
    links = sum(len(parsed(path).addresses) for path in site.rglob("*.html"))
    print("\n".join(found) or f"{links} links: all resolve")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
