"""Figures of graphs, curves, strips and information flow, and the only importer of matplotlib."""

try:
    import matplotlib as _matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError(
        "pgmdiff.plotting needs matplotlib. Install it with: pip install 'pgmdiff[plot]'"
    ) from error

from pgmdiff.errors import in_words
from pgmdiff.plotting.animation import animate, ring_image
from pgmdiff.plotting.draw import plot
from pgmdiff.plotting.image_strips import strips
from pgmdiff.plotting.information_flow import flow
from pgmdiff.plotting.line_charts import Panel, curves, panels

__all__ = ["Panel", "animate", "curves", "flow", "panels", "plot", "ring_image", "strips"]

in_words(__name__)
