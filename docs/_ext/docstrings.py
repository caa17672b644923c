"""Docstrings as they are written: indented formulas are kept line by line.

Our docstrings set formulas off by four spaces and a blank line, as Markdown does. In
reStructuredText that would be a quotation, run together: they are made blocks of their own, in
which names between backticks may be links.
"""

import ast
import re
import textwrap

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

SECTION = re.compile(
    r"(Args|Attributes|Returns|Raises|Yields|Example|Examples|Source|Note)(: .*|:)$"
)


class Formula(SphinxDirective):
    """Lines as they are, but for names between backticks, whose place they keep."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        text = "\n".join(self.content)
        language = "python" if _is_code(text) else "text"
        block = nodes.literal_block(text, "", classes=["formula"], language=language)
        for k, part in enumerate(re.split(r"`([^`\n]+)`", text)):
            block += [nodes.literal("", part), nodes.Text("  ")] if k % 2 else [nodes.Text(part)]
        return [block]


def _is_code(text: str) -> bool:
    try:
        ast.parse(textwrap.dedent(text))
    except SyntaxError:
        return False
    return text.isascii()  # formulas are not


def literal_formulas(app, what, name, obj, options, lines: list[str]) -> None:
    """Makes a `formula` of every indented block that is not part of a section."""
    out: list[str] = []
    inside = False
    for number, line in enumerate(lines):
        indented = line.startswith("    ")
        if line and not indented:
            inside = bool(SECTION.match(line))
        blank_before = number > 0 and not lines[number - 1].strip()
        if indented and blank_before and not inside and not _in_block(lines, number):
            out += [".. formula::", ""]
        out.append(line if indented else without_substitutions(line))
    lines[:] = out


def without_substitutions(line: str) -> str:
    """Bars are norms and sizes here; those in code stay."""
    parts = line.split("`")
    return "`".join(p if k % 2 else p.replace("|", r"\|") for k, p in enumerate(parts))


def _in_block(lines: list[str], number: int) -> bool:
    """Whether the nearest line above that is not blank is indented too, or opens a block."""
    above = next((line for line in reversed(lines[:number]) if line.strip()), "")
    return above.startswith("    ") or above.rstrip().endswith("::")


def setup(app: Sphinx) -> dict:
    app.add_directive("formula", Formula)
    app.connect("autodoc-process-docstring", literal_formulas, priority=400)
    return {"parallel_read_safe": True}
