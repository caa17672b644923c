"""The one idea as a picture: what describes a graph makes regions, what computes reads them."""

MAKE = [
    "networkx, scopes",
    "nested graphs",
    "windows of a tensor",
    "cluster variation",
    "junction trees",
    "JSON",
]
USE = [
    "joint score → samplers",
    "conditioning",
    "Gaussian oracles",
    "exactness reports",
    "laws, JSON",
    "pictures",
]
ROW, TOP, WIDTH = 44, 10, 720


def svg() -> str:
    """Ways in on the left, uses on the right, `RegionGraph` between them."""
    height = ROW * len(MAKE) + 2 * TOP
    middle = height / 2
    lines, boxes = [], []
    for k, (made, used) in enumerate(zip(MAKE, USE, strict=True)):
        y = TOP + ROW * (k + 0.5)
        boxes += [_box(10, y, 190, made), _box(520, y, 190, used)]
        lines += [_line(200, y, 262, middle), _line(458, middle, 520, y)]
    centre = (
        f'<rect class="centre" x="264" y="{middle - 38}" width="192" height="76" rx="8"/>'
        f'<text x="360" y="{middle - 6}">RegionGraph</text>'
        f'<text class="small" x="360" y="{middle + 16}">regions, counting numbers</text>'
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{ALT}"><defs>'
        '<marker id="pipeline-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>'
        + "".join(lines + boxes)
        + centre
        + "</svg>"
    )


ALT = (
    f"{', '.join(MAKE)} all make one RegionGraph of regions and counting numbers; "
    f"{', '.join(USE)} all read it"
)


def _box(x: int, y: float, width: int, text: str) -> str:
    return (
        f'<rect x="{x}" y="{y - 16}" width="{width}" height="32" rx="6"/>'
        f'<text x="{x + width / 2}" y="{y + 5}">{text}</text>'
    )


def _line(x: int, y: float, to_x: int, to_y: float) -> str:
    bend = (x + to_x) / 2
    return (
        f'<path class="edge" marker-end="url(#pipeline-arrow)" '
        f'd="M{x} {y} C{bend} {y} {bend} {to_y} {to_x - 2} {to_y}"/>'
    )
