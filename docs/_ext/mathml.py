"""Formulas as MathML, which browsers show without a script: the site reads with no network."""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

NAMED = re.compile(r"(<mi>(?:arg|cos|det|exp|log|max|min|sin|tan)</mi>)(?!<mo|</m)")
STOPS = (".", ",", ";", ":", ")")


def _inline(self, node: nodes.math) -> None:
    self.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def _block(self, node: nodes.math_block) -> None:
    self.body.append(f"<p>{mathml(node.astext(), display='block')}</p>")
    raise nodes.SkipNode


def keep_stops(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Keeps the full stop after a formula on the formula's line."""
    for node in list(doctree.findall(nodes.math)):
        after = node.next_node(descend=False, siblings=True)
        if isinstance(after, nodes.Text) and after.startswith(STOPS):
            parent = node.parent
            both = nodes.inline("", "", node.deepcopy(), nodes.Text(after[0]), classes=["formula"])
            parent.replace(after, nodes.Text(after[1:]))
            parent.replace(node, both)


def mathml(text: str, **options: str) -> str:
    """A formula, with a thin space between the name of a function and what it is of."""
    return NAMED.sub(r'\1<mspace width="0.17em"></mspace>', convert(text, **options))


def setup(app: Sphinx) -> dict:
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.config.html_math_renderer = "mathml"
    app.connect("doctree-resolved", keep_stops)
    return {"parallel_read_safe": True}
