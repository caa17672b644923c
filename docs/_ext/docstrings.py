"""Docstrings as they are written: indented formulas are kept line by line.

Docstrings of the library set formulas off by a blank line and four spaces, as Markdown does. In
reStructuredText that would be a quotation, whose lines run together. They become blocks instead, in
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
    """Lines as they are, except that names between backticks become literals, in their place."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        text, language = "\n".join(self.content), "text"
        if text.isascii():  # formulas rarely are
            try:
                ast.parse(textwrap.dedent(text))
                language = "python"
            except SyntaxError:
                pass
        block = nodes.literal_block(text, "", classes=["formula"], language=language)
        for k, part in enumerate(re.split(r"`([^`\n]+)`", text)):
            block += [nodes.literal("", part), nodes.Text("  ")] if k % 2 else [nodes.Text(part)]
        return [block]


def literal_formulas(app, what, name, obj, options, lines: list[str]) -> None:
    """Makes a `formula` of every indented block that is not part of a section."""
    out: list[str] = []
    in_section, after_blank, above = False, False, ""
    for line in lines:
        indented = line.startswith("    ")
        if line and not indented:
            in_section = bool(SECTION.match(line))
        in_block = above.startswith("    ") or above.endswith("::")
        if indented and after_blank and not in_section and not in_block:
            out += [".. formula::", ""]
        out.append(line if indented else without_substitutions(line))
        after_blank = not line.strip()
        above = above if after_blank else line.rstrip()
    lines[:] = out


def without_substitutions(line: str) -> str:
    """Escapes bars, which are norms and sizes here; those in code stay."""
    parts = line.split("`")
    return "`".join(p if k % 2 else p.replace("|", r"\|") for k, p in enumerate(parts))


def setup(app: Sphinx) -> dict:
    app.add_directive("formula", Formula)
    app.connect("autodoc-process-docstring", literal_formulas, priority=400)
    return {"parallel_read_safe": True}
