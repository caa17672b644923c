"""Directives that fill pages from committed results when the site is built.

```{benchmark-table} exactness modes.rows        the table that the YAML inside describes
```{benchmark-settings} exactness                how and with what it was measured
{benchmark}`exactness/gaussians.rows?n=20&...#kl:.2g`     one figure in a sentence
"""

import yaml
from benchmark_tables import Table, TableError, figure, file_of, load, settings, table
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole


class BenchmarkTable(SphinxDirective):
    """A table; the first argument is the name of a JSON, the second the path to its rows."""

    required_arguments = 2
    has_content = True

    def run(self) -> list[nodes.Node]:
        name, path = self.arguments
        spec = yaml.safe_load("\n".join(self.content))
        note_dependency(self.env, name)
        try:
            found = table(load(name), path, spec)
        except TableError as error:
            raise self.error(f"benchmark-table {name}: {error}") from error
        caption = self.parse_inline(spec["caption"])[0] if "caption" in spec else []
        above = [nodes.paragraph("", "", *caption, classes=["caption"])] if caption else []
        return [*above, as_node(found)]


class BenchmarkSettings(SphinxDirective):
    """A list of the settings that a JSON records."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        (name,) = self.arguments
        note_dependency(self.env, name)
        fields = nodes.field_list(classes=["settings"])
        for label, value in settings(load(name)):
            body = nodes.field_body("", nodes.paragraph("", value))
            fields += nodes.field("", nodes.field_name("", label), body)
        return [fields]


class BenchmarkFigure(SphinxRole):
    """One figure of a JSON, in a sentence."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        name, _, query = self.text.partition("/")
        note_dependency(self.env, name)
        try:
            return [nodes.inline("", figure(load(name), query))], []
        except TableError as error:
            message = self.inliner.reporter.error(f"benchmark {name}: {error}", line=self.lineno)
            return [], [message]


def note_dependency(env, name: str) -> None:
    """Makes the page again when the JSON changes."""
    env.note_dependency(str(file_of(name)))


def as_node(found: Table) -> nodes.table:
    """A docutils table; figures are set right-aligned by their class."""
    group = nodes.tgroup(cols=len(found.heads))
    group += [nodes.colspec(colwidth=1) for _ in found.heads]
    group += nodes.thead("", _row(found.heads, found.figures))
    group += nodes.tbody("", *(_row(row, found.figures) for row in found.rows))
    return nodes.table("", group, classes=["benchmark"])


def _row(cells: list[str], figures: list[bool]) -> nodes.row:
    row = nodes.row()
    for text, is_figure in zip(cells, figures, strict=True):
        entry = nodes.entry(classes=["figure"] if is_figure else [])
        entry += nodes.paragraph("", text)
        row += entry
    return row


def setup(app: Sphinx) -> dict:
    app.add_directive("benchmark-table", BenchmarkTable)
    app.add_directive("benchmark-settings", BenchmarkSettings)
    app.add_role("benchmark", BenchmarkFigure())
    return {"parallel_read_safe": True}
