"""Directives for the page on architecture, made of the source when the site is built.

`pipeline`: the one idea. `import-diagram`: the parts and their imports as a picture.
`import-table`: the same as a table, with what each part is for.
"""

from docutils import nodes
from import_graph import LAW, PACKAGE, imports, layers, parts, purpose, svg
from pipeline import svg as pipeline
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class ImportDiagram(SphinxDirective):
    """The picture, inline, so that it follows the page's colours."""

    def run(self) -> list[nodes.Node]:
        note_sources(self.env)
        picture = nodes.raw("", f'<div class="import-diagram">{svg()}</div>', format="html")
        return [picture]


class Pipeline(SphinxDirective):
    """From what describes a graph to what computes with it."""

    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", f'<div class="diagram">{pipeline()}</div>', format="html")]


class ImportTable(SphinxDirective):
    """From the highest layer down: a part, what it is for, what it imports."""

    def run(self) -> list[nodes.Node]:
        note_sources(self.env)
        rank = {name: number for number, layer in enumerate(layers()) for name in layer}
        body = nodes.tbody()
        for part in sorted(parts(), key=lambda part: (-rank.get(part, -1), part)):
            text, _ = self.parse_inline(purpose(part))
            used = ", ".join(sorted(imports(part), key=lambda name: -rank.get(name, -1)))
            body += _row([nodes.literal("", f"pgmdiff.{part}")], text, [nodes.Text(used)])
        group = nodes.tgroup("", *[nodes.colspec(colwidth=w) for w in (22, 48, 30)], cols=3)
        heads = ("Part", "What it is for", "Imports")
        group += nodes.thead("", _row(*([nodes.Text(head)] for head in heads)))
        group += body
        return [nodes.table("", group, classes=["summary"])]


def _row(*cells: list[nodes.Node]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", *cell)) for cell in cells))


def note_sources(env) -> None:
    """The page is made again when the source changes."""
    for path in [LAW, *PACKAGE.rglob("*.py")]:
        env.note_dependency(str(path))


def setup(app: Sphinx) -> dict:
    app.add_directive("import-diagram", ImportDiagram)
    app.add_directive("pipeline", Pipeline)
    app.add_directive("import-table", ImportTable)
    return {"parallel_read_safe": True}
