"""Draws the pictures of graphs in docs/images (those of benchmarks are drawn by their commands)."""

from pathlib import Path

import numpy as np

from pgmdiff.graphs import cluster_variation, nested_cubemap
from pgmdiff.plotting import plot

IMAGES = Path(__file__).parents[1] / "docs" / "images"


def main() -> None:
    plot(nested_cubemap(8)).savefig(IMAGES / "nested_cubemap.png", dpi=80)
    u = np.arange(6 * 12).reshape(6, 12)
    panels = {f"panel {p}": u[:, np.arange(3 * p, 3 * p + 4) % 12] for p in range(4)}
    cylinder = cluster_variation({**panels, "cap": u[:2]}, event_shape=u.shape)
    plot(cylinder, layout="tiles").savefig(IMAGES / "cylinder.png", dpi=80)


if __name__ == "__main__":
    main()
