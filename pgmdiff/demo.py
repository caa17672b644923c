"""The demo: a long strip and a seamless ring of gravel, by well-known methods and by composition.

One small network, trained on crops of at most 16 × 16 pixels, makes images of 48 × 384.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pgmdiff.baselines import composed
from pgmdiff.composition.rules import Average, Marginal, Rule
from pgmdiff.diagnostics.metrics import seam_ratio
from pgmdiff.graphs import tiles
from pgmdiff.models.gravel import gravel_denoiser, gravel_image
from pgmdiff.samplers import Heun, karras
from pgmdiff.scores.adapters import from_denoiser
from pgmdiff.text import Table

__all__ = ["run", "table"]

HEIGHT, WIDTH, WINDOW, OVERLAP = 48, 384, 16, 8
STEPS, SIGMA_MIN, SIGMA_MAX = 18, 0.01, 10.0
MAX_BATCH = 32


@dataclass(frozen=True)
class Row:
    """One row of the demo's table; the seam ratio is 1 if seams are invisible.

    Network patches are those of any size that went through the network.
    """

    method: str
    seam_ratio: float
    seconds: float = 0.0
    score_evaluations: int = 0
    network_patches: int = 0


@dataclass(frozen=True)
class Method:
    """A way to make an image: the overlap of its windows, the rule, and whether it is a ring."""

    name: str
    overlap: int
    rule: Rule
    ring: bool = False

    def seams(self, width: int) -> range:
        """Returns the columns where a piece begins or ends."""
        stride = OVERLAP if self.overlap else WINDOW
        return range(0 if self.ring else stride, width, stride)

    def sample(
        self, denoiser: Callable[..., Tensor], seed: int, width: int, steps: int
    ) -> tuple[Tensor, Row]:
        """Samples one image `[H, W]`, and measures it."""
        graph = tiles(
            (1, HEIGHT, width),
            window=(1, WINDOW, WINDOW),
            overlap=(0, self.overlap, self.overlap),
            periodic=(False, False, self.ring),
        )
        score, levels = from_denoiser(denoiser), karras(steps, SIGMA_MIN, SIGMA_MAX)
        options: dict[str, Any] = {"max_batch": MAX_BATCH, "solver": Heun(), "generator": seed}
        start = time.perf_counter()
        drawn = composed(score, graph, levels, rule=self.rule, **options)
        seconds, image = time.perf_counter() - start, drawn.samples[0, 0]
        ratio = seam_ratio(image, self.seams(width), periodic=self.ring)
        return image, Row(self.name, ratio, seconds, drawn.critical_path, drawn.evaluations)


METHODS = (
    Method("concatenation", 0, Marginal()),
    Method("overlap averaging", OVERLAP, Average()),
    Method("DiffCollage strip", OVERLAP, Marginal()),
    Method("DiffCollage ring", OVERLAP, Marginal(), ring=True),
)


def run(out: Path, *, seed: int = 0, width: int = WIDTH, steps: int = STEPS) -> list[Row]:
    """Samples images by all methods, and writes `demo.png` and `demo.json` into a folder.

    The width in pixels is a multiple of 16; Heun evaluates the score 2 steps - 1 times. Of the rows
    of the table, which are returned, the photograph's is the first.

    Raises:
        ImportError: matplotlib or scikit-image is not installed.
    """
    missing = [library for library in ("matplotlib", "skimage") if find_spec(library) is None]
    if missing:  # named together, and by the one extra that installs both
        names = " and ".join(missing)
        raise ImportError(f"the demo needs {names}. Run: pip install 'pgmdiff[demo]'")
    from pgmdiff.plotting import strips as draw_strips

    real, denoiser = gravel_image()[0], gravel_denoiser()
    rows = [Row("real", seam_ratio(real, range(OVERLAP, real.shape[1], OVERLAP)))]
    caption = f"real photograph, seam ratio {rows[0].seam_ratio:.2f}"
    strips, seams, joins = {caption: real[:HEIGHT]}, {caption: range(0)}, {}
    for method in tqdm(METHODS, desc="demo", unit="image"):
        image, row = method.sample(denoiser, seed, width, steps)
        rows.append(row)
        how = ", shown shifted by half: its ends meet at the blue mark" if method.ring else ""
        caption = f"{method.name}{how}, seam ratio {row.seam_ratio:.2f}"
        if method.ring:
            joins[caption] = width // 2
            image = image.roll(width // 2, dims=1)
        strips[caption], seams[caption] = image, method.seams(width)
    out.mkdir(parents=True, exist_ok=True)
    title = f"Images of {HEIGHT} × {width} from one model of {WINDOW} × {WINDOW} patches"
    draw_strips(strips, seams=seams, joins=joins, title=title).savefig(out / "demo.png", dpi=110)
    settings = {
        "seed": seed,
        "shape": [HEIGHT, width],
        "window": WINDOW,
        "overlap": OVERLAP,
        "sampler": f"Heun, {steps} Karras levels {SIGMA_MAX} to {SIGMA_MIN}",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    report: dict[str, Any] = {"settings": settings, "rows": [asdict(row) for row in rows]}
    (out / "demo.json").write_text(json.dumps(report, indent=2) + "\n")
    return rows


def table(rows: list[Row]) -> str:
    """Returns the rows as text."""
    cells = [
        (
            row.method,
            f"{row.seam_ratio:.3f}",
            f"{row.seconds:.1f}",
            str(row.score_evaluations),
            str(row.network_patches),
        )
        for row in rows
    ]
    return str(Table("", cells, ("method", "seam ratio", "seconds", "evaluations", "patches")))
