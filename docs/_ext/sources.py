"""The sources that docstrings cite, and which of the library's names cite them.

`docs/bibliography.yml` lists the sources; `cited` are words by which a citation is known.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from api_names import public_name

ROOT = Path(__file__).parents[2]
LIST = ROOT / "docs" / "bibliography.yml"
YEAR = re.compile(r"(?<=[ (])((?:19|20)\d\d)(?=[,.;:)]|$)")
REACH = 300
"""A citation's authors and title stand so many letters before its year, at most."""
Source = Mapping[str, Any]


@cache
def sources() -> dict[str, list[Source]]:
    """Subject to the sources under it."""
    return yaml.safe_load(LIST.read_text(encoding="utf-8"))


def docstrings() -> Iterator[tuple[str, str]]:
    """Names, as users import them, and docstrings on one line: of modules and all in them."""
    for path in sorted([*ROOT.glob("pgmdiff/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if parts[-1] == "__main__" or "plotting" in parts:
            continue
        module = import_module(name)
        yield name, _line(module)
        for each, thing in list(vars(module).items()):
            if getattr(thing, "__module__", None) == name and callable(thing):
                known = public_name(name, each)
                yield known, _line(thing)
                if inspect.isclass(thing):
                    methods = {k: m for k, m in vars(thing).items() if callable(m)}
                    yield from ((f"{known}.{k}", _line(m)) for k, m in methods.items())


def _line(thing: object) -> str:
    return " ".join((inspect.getdoc(thing) or "").split())


def cites(text: str, source: Source) -> bool:
    """Whether a text cites a source."""
    return any(words.lower() in text.lower() for words in source["cited"])


@cache
def users() -> dict[str, list[str]]:
    """Title to the names whose docstrings cite it."""
    texts = [(name, text) for name, text in docstrings() if "._" not in name]
    return {
        source["title"]: list(dict.fromkeys(name for name, text in texts if cites(text, source)))
        for subject in sources().values()
        for source in subject
    }


def unknown_citations() -> list[tuple[str, str]]:
    """Names and the citations, author to year, that no source of the list explains."""
    known = [source for subject in sources().values() for source in subject]
    found = []
    for name, text in docstrings():
        for match in YEAR.finditer(text):
            citation = text[max(0, match.start() - REACH) : match.end()]
            year = int(match.group(1))
            if not any(source["year"] == year and cites(citation, source) for source in known):
                found.append((name, citation[-80:]))
    return found
