"""Classes of pictures by what is in them, so that the style suits dark pages.

A `chart` is white in four fifths of its pixels: dark pages show it in reversed lightness, on their
own ground. A picture that fills its frame is left alone. What lies between, photographs and
drawings on white, is a `card`, whose ground is kept.
"""

from functools import cache
from pathlib import Path

import numpy as np
from docutils import nodes
from PIL import Image
from sphinx.application import Sphinx

CHART, CARD, SIDE, WHITE = 0.8, 0.1, 200, 235


@cache
def kind(path: Path) -> str | None:
    """`chart`, `card`, or None."""
    with Image.open(path) as image:
        small = image.convert("RGBA").resize((SIDE, SIDE), Image.Resampling.NEAREST)
    pixels = np.asarray(small)
    if pixels[..., 3].min() < WHITE:  # it has a ground of its own
        return None
    white = float((pixels.min(axis=-1) > WHITE).mean())
    return "chart" if white > CHART else "card" if white > CARD else None


def classify(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Gives every image its class."""
    for node in doctree.findall(nodes.image):
        path = Path(app.srcdir) / node["uri"]
        if path.suffix in (".png", ".gif") and path.exists() and (found := kind(path)):
            node["classes"].append(found)


def setup(app: Sphinx) -> dict:
    app.connect("doctree-resolved", classify)
    return {"parallel_read_safe": True}
