"""Texts of figures, and graphs to draw."""

from itertools import combinations

import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from pgmdiff.graphs import FactorGraph


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def written(figure: Figure) -> list[Text]:
    found = [text for ax in figure.axes for text in ax.texts if text.get_text()]
    found += figure.legends[0].get_texts() if figure.legends else []
    return found + [text for text in figure.texts if text.get_text()]


def check_legible(figure: Figure, least: float = 5.5) -> None:
    """No text is tiny, leaves the figure or overlaps another."""
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent()) for text in written(figure)]
    for text in written(figure):
        assert text.get_fontsize() >= least
    for name, box in boxes:
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, f"{name!r} is clipped"
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, f"{name!r} is clipped"
    for (a, one), (b, other) in combinations(boxes, 2):
        apart = one.x1 <= other.x0 or other.x1 <= one.x0 or one.y1 <= other.y0 or other.y1 <= one.y0
        assert apart, f"{a!r} overlaps {b!r}"


def scattered(n_variables: int, n_factors: int, seed: int = 0) -> FactorGraph:
    generator = torch.Generator().manual_seed(seed)
    names = [f"x{v}" for v in range(n_variables)]
    scopes = {
        f"f{f}": [names[v] for v in torch.randperm(n_variables, generator=generator)[: 1 + f % 3]]
        for f in range(n_factors)
    }
    return FactorGraph.from_scopes(scopes, dict.fromkeys(names, ()))


KIKUCHI = [("a", "b", "c"), ("b", "c", "d"), ("c", "d", "e"), ("a", "d", "e")]
