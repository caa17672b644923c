"""Citations in docstrings, and the sources of `docs/references.bib` that they mean.

A docstring cites a source in words, such as `Karras et al., "Elucidating ...", 2022`. The field
`cited` of a source lists the words by which its citations are known, with semicolons between.
"""

import inspect
from functools import cache
from importlib import import_module
from pathlib import Path

from api_names import public_name
from pybtex.database import Entry, parse_file

ROOT = Path(__file__).parents[2]
SOURCES = parse_file(str(ROOT / "docs" / "references.bib")).entries


@cache
def docstrings() -> list[tuple[str, str]]:
    """Names, as users import them, and docstrings on one line: of modules and all in them."""
    things: list[tuple[str, object]] = []
    for path in sorted([*ROOT.glob("pgmdiff/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name.endswith("__main__") or ".plotting" in name:
            continue
        module = import_module(name)
        things.append((name, module))
        for each, thing in list(vars(module).items()):
            if getattr(thing, "__module__", None) == name and callable(thing):
                known = public_name(name, each)
                things.append((known, thing))
                if inspect.isclass(thing):
                    methods = {k: m for k, m in vars(thing).items() if callable(m)}
                    things += [(f"{known}.{k}", method) for k, method in methods.items()]
    return [(name, " ".join((inspect.getdoc(thing) or "").split())) for name, thing in things]


def cites(text: str, source: Entry) -> bool:
    """Whether a text cites a source."""
    words = source.fields["cited"].lower().split("; ")
    return any(each in text.lower() for each in words)


def citing(source: Entry) -> list[str]:
    """The public names whose docstrings cite a source."""
    public = ((name, text) for name, text in docstrings() if "._" not in name)
    return list(dict.fromkeys(name for name, text in public if cites(text, source)))
