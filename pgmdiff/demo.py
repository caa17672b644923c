"""The demo: a strip, a ring and a torus from one model of patches, beside well-known methods.

One small network, trained on crops of at most 32 × 32 pixels, makes images of 64 × 384.
"""

import json
import time
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
from pgmdiff.models.tissue import tissue_denoiser, tissue_image
from pgmdiff.samplers import DPMSolver2M, karras
from pgmdiff.scores.adapters import from_denoiser
from pgmdiff.text import Table
from pgmdiff.training import EDMDenoiser

__all__ = ["run", "table"]

HEIGHT, WIDTH, WINDOW, OVERLAP, TORUS = 64, 384, 32, 16, 64
STEPS, SIGMA_MIN, SIGMA_MAX = 24, 0.01, 40.0
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
    """A way to make an image: the overlap of its windows, the rule, and which axes are closed."""

    name: str
    rule: Rule
    overlap: int = OVERLAP
    closed: tuple[bool, bool] = (False, False)

    def seams(self, width: int) -> range:
        """Returns the columns where a piece begins or ends."""
        stride = WINDOW - self.overlap
        return range(0 if self.closed[1] else stride, width, stride)

    def sample(
        self, denoiser: EDMDenoiser, seed: int, sides: tuple[int, int], steps: int
    ) -> tuple[Tensor, Row]:
        """Samples one image `[3, H, W]`, and measures it."""
        graph = tiles(
            (3, *sides),
            window=(3, WINDOW, WINDOW),
            overlap=(0, self.overlap, self.overlap),
            periodic=(False, *self.closed),
        )
        score, levels = from_denoiser(denoiser), karras(steps, SIGMA_MIN, SIGMA_MAX)
        options: Any = {"max_batch": MAX_BATCH, "generator": seed, "mean": denoiser.mean}
        start = time.perf_counter()
        drawn = composed(
            score, graph, levels, rule=self.rule, solver=DPMSolver2M(eta=1.0), **options
        )
        seconds, image = time.perf_counter() - start, drawn.samples[0]
        ratio = seam_ratio(image, self.seams(sides[1]), periodic=self.closed[1])
        return image, Row(self.name, ratio, seconds, drawn.critical_path, drawn.evaluations)


BESIDE = (
    Method("patches side by side", Marginal(), overlap=0),
    Method("overlap averaging", Average()),
    Method("DiffCollage", Marginal()),
)
RING = Method("DiffCollage on a ring", Marginal(), closed=(False, True))
TORUS_OF = Method("DiffCollage on a torus", Marginal(), closed=(True, True))


def worst(image: Tensor, seams: range, side: int = 24) -> Tensor:
    """Returns the part `[3, side, side]` of an image with the largest jump across its middle."""
    inner = [seam for seam in seams if side // 2 <= seam <= image.shape[2] - side // 2]
    jumps = image.diff(dim=2).abs().mean(dim=0)[:, [seam - 1 for seam in inner]]
    row, place = divmod(int(jumps.unfold(0, side, 1).mean(dim=-1).argmax()), len(inner))
    left = inner[place] - side // 2
    return image[:, row : row + side, left : left + side]


def run(
    out: Path, *, seed: int = 0, width: int = WIDTH, height: int = HEIGHT, steps: int = STEPS
) -> list[Row]:
    """Samples images by all methods, and writes `demo.png` and `demo.json` into a folder.

    The sides are multiples of 32 pixels; `steps` is the number of evaluations of the score. Of the
    rows of the table, which are returned, the picture's is the first.

    Raises:
        ImportError: matplotlib or scikit-image is not installed.
    """
    missing = [library for library in ("matplotlib", "skimage") if find_spec(library) is None]
    if missing:  # named together, and by the one extra that installs both
        names = " and ".join(missing)
        raise ImportError(f"the demo needs {names}. Run: pip install 'pgmdiff[demo]'")
    from pgmdiff.plotting import strips as draw_strips

    real, denoiser = tissue_image(), tissue_denoiser()
    rows = [Row("real", seam_ratio(real, range(OVERLAP, real.shape[2], OVERLAP)))]
    images, strips, seams, joins = {}, {}, {}, {}
    for method in tqdm((*BESIDE, RING, TORUS_OF), desc="demo", unit="image"):
        sides = (TORUS, TORUS) if method is TORUS_OF else (height, width)
        image, row = method.sample(denoiser, seed, sides, steps)
        rows.append(row)
        images[method.name] = image
        if method is TORUS_OF:
            continue
        caption = f"{method.name}, seam ratio {row.seam_ratio:.2f}"
        if method is RING:
            caption += ": shown from its middle, so that its ends meet at the blue mark"
            joins[caption] = width // 2
            image = image.roll(width // 2, dims=2)
        strips[caption], seams[caption] = image, method.seams(width)
    patch = images[BESIDE[0].name][:, :WINDOW, :WINDOW]
    panels = {
        f"the data,\n{TORUS} × {TORUS}": real[:, :TORUS, :TORUS],
        "one patch,\n32 × 32": patch,
    }
    for method in BESIDE:
        panels[f"worst seam:\n{method.name}"] = worst(images[method.name], method.seams(width))
    panels[f"a torus of {TORUS} × {TORUS},\nlaid four times"] = images[TORUS_OF.name].repeat(
        1, 2, 2
    )
    out.mkdir(parents=True, exist_ok=True)
    title = f"Images of {height} × {width} pixels from one model of {WINDOW} × {WINDOW} patches"
    figure = draw_strips(strips, seams=seams, joins=joins, panels=panels, title=title)
    figure.savefig(out / "demo.png", dpi=110)
    settings = {
        "seed": seed,
        "shape": [height, width],
        "window": WINDOW,
        "overlap": OVERLAP,
        "sampler": f"DPMSolver2M(eta=1), {steps} Karras levels {SIGMA_MAX} to {SIGMA_MIN}",
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
