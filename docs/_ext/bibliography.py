"""The style of the bibliography: each source is followed by the public names that cite it.

sphinxcontrib-bibtex reads `docs/references.bib` and makes the lists.
"""

from functools import partial

from citations import citing
from docutils import nodes
from pybtex.plugin import register_plugin
from pybtex.richtext import Tag, Text
from pybtex.style import FormattedEntry
from pybtex.style.formatting.plain import Style
from pybtex_docutils import Backend
from sphinx.application import Sphinx


class Cited(Style):
    """Plain entries, sorted by author, with the names that cite them on a line of their own."""

    def format_entry(self, label: str, entry, bib_data=None) -> FormattedEntry:
        formatted = super().format_entry(label, entry, bib_data)
        names = Text(", ").join(Tag("tt", name) for name in citing(entry))
        formatted.text += Tag("cited-in", "In ", names)
        return formatted


def setup(app: Sphinx) -> dict:
    register_plugin("pybtex.style.formatting", "cited", Cited)
    Backend.tags["cited-in"] = partial(nodes.inline, classes=["cited-in"])
    app.setup_extension("sphinxcontrib.bibtex")
    return {"parallel_read_safe": True}
