"""Texts in nodes: the largest size at which almost all of them fit, and what is left out.

Sizes are in points. A measure gives a text's width and height in units of the font size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pgmdiff.plotting.ink import count_text
from pgmdiff.plotting.scenes import NAMED, Node, Scene

__all__ = ["LARGEST", "Label", "Measure", "all_nodes", "label_of", "lettering", "unit_of"]

Measure = Callable[[str], tuple[float, float]]

LARGEST, SMALLEST = 11.0, 6.0
"""Font sizes, in points."""


@dataclass(frozen=True)
class Label:
    """How text is set: its size in points, whether names are written, whether counts are."""

    size: float
    names: bool
    counts: bool
    forced: bool


def all_nodes(scene: Scene) -> Iterator[Node]:
    """Those of a scene, and of the scenes inside them."""
    for node in scene.nodes:
        yield node
        if node.inside:
            yield from all_nodes(node.inside)


def unit_of(scene: Scene, measure: Measure) -> float:
    """Inches of a node: more where few nodes have long names."""
    plain = [node for node in all_nodes(scene) if node.kind in ("circle", "square")]
    longest = max((measure(_wrapped(node.name))[0] for node in plain), default=0.0)
    return min(max(0.5, longest * 7.5 / 72 / 0.8), 0.8) if len(plain) <= 40 else 0.5


def lettering(nodes: Sequence[Node], labels: bool | None, points: float, measure: Measure) -> Label:
    """The largest size at which almost all texts fit; without names if that is too small.

    Args:
        nodes: that are not boxes.
        labels: whether names are written; None: where they fit.
        points: of a node's diameter.
        measure: of texts.
    """
    names = len(nodes) <= NAMED if labels is None else labels
    if names:
        sizes = (_fitting(node, _text(node), points, measure) for node in nodes)
        size = min(sizes, default=LARGEST)
        if size >= SMALLEST:
            return Label(min(size, LARGEST), True, True, False)
        room = min(0.3 * points, SMALLEST + 1)
        if room >= SMALLEST - 0.5 or labels:
            return Label(max(room, SMALLEST), True, True, bool(labels))
    counts = [_fitting(node, count_text(node.count), points, measure) for node in nodes]
    size = min(min(counts, default=LARGEST), LARGEST)
    return Label(size, False, size >= SMALLEST - 1, False)


def label_of(node: Node, label: Label, points: float, measure: Measure) -> str:
    """What is written in a node, in one to three lines; nothing where nothing fits."""
    if not label.counts:
        return ""
    text = _text(node) if label.names else count_text(node.count)
    if label.names and not label.forced:
        return _shortened(node, text, label.size, points, measure)
    return text


def _fitting(node: Node, text: str, points: float, measure: Measure) -> float:
    """Font size at which a text fills its node."""
    width, height = measure(text)
    if node.kind == "circle":
        return 0.93 * points / float((width**2 + (0.85 * height) ** 2) ** 0.5)
    margin = 0.86 if node.kind == "square" else 0.94
    across = margin * points * node.width / width
    return min(across, margin * points * node.height / height)


def _text(node: Node) -> str:
    return (
        f"{_wrapped(node.name)}\n{count_text(node.count)}" if node.name else count_text(node.count)
    )


def _wrapped(name: str) -> str:
    """A long name in two lines, broken where it has a joint."""
    if len(name) <= 7:
        return name
    joints = [i for i, letter in enumerate(name) if letter in " ,_-–|/" and 1 < i < len(name) - 2]
    if not joints:
        return name
    middle = min(joints, key=lambda i: abs(2 * i - len(name)))
    return f"{name[: middle + 1].rstrip()}\n{name[middle + 1 :]}"


def _shortened(node: Node, text: str, size: float, points: float, measure: Measure) -> str:
    """The text with its name cut until it fits."""
    name = node.name
    while _fitting(node, text, points, measure) < 0.97 * size and len(name) > 1:
        name = name[:-1]
        text = f"{_wrapped(name + '…')}\n{count_text(node.count)}"
    return text if len(name) > 1 or name == node.name else count_text(node.count)
