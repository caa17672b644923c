"""Formulas as MathML, which browsers show without a script, so that the site needs no network."""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

NAMED = re.compile(r"(<mi>(?:arg|cos|det|exp|log|max|min|sin|tan)</mi>)(?!<mo|</m)")
STOPS = (".", ",", ";", ":", ")")


def visit(self, node: nodes.math | nodes.math_block) -> None:
    """Writes a formula, with a thin space between the name of a function and its argument."""
    block = isinstance(node, nodes.math_block)
    text = convert(node.astext(), display="block" if block else "inline")
    text = NAMED.sub(r'\1<mspace width="0.17em"></mspace>', text)
    self.body.append(f"<p>{text}</p>" if block else text)
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


def setup(app: Sphinx) -> dict:
    app.add_html_math_renderer("mathml", (visit, None), (visit, None))
    app.config.html_math_renderer = "mathml"
    app.connect("doctree-resolved", keep_stops)
    return {"parallel_read_safe": True}
