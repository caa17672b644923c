"""The demo: a long strip and a seamless ring of gravel, by the methods people know and by ours.

One small network, trained on crops of at most 16 × 16 pixels, makes images of 48 × 384.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pgmdiff.composition.composing import compose
from pgmdiff.composition.rules import Average, Marginal, Rule
from pgmdiff.diagnostics.metrics import seam_ratio
from pgmdiff.graphs import RegionGraph, tiles
from pgmdiff.models.gravel import gravel_denoiser, gravel_image
from pgmdiff.samplers import Heun, karras, sample
from pgmdiff.scores.adapters import from_denoiser

__all__ = ["run"]

HEIGHT, WIDTH, WINDOW, OVERLAP = 48, 384, 16, 8
STEPS, SIGMA_MIN, SIGMA_MAX = 18, 0.01, 10.0
MAX_BATCH = 32


@dataclass(frozen=True)
class Row:
    """One line of the demo's table.

    Attributes:
        method: how the image was made.
        seam_ratio: across the columns where pieces begin or end; 1 where seams do not show.
        seconds: of sampling.
        score_evaluations: of the joint score.
        network_patches: patches of any size that went through the network.
    """

    method: str
    seam_ratio: float
    seconds: float = 0.0
    score_evaluations: int = 0
    network_patches: int = 0


class Counted:
    """A denoiser that counts the patches it is given."""

    def __init__(self, denoiser: Callable[..., Tensor]) -> None:
        self.denoiser = denoiser
        self.patches = 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.patches += len(x)
        return self.denoiser(x, sigma)


def strip(width: int, overlap: int, periodic: bool = False) -> RegionGraph:
    """16 × 16 windows of a grey image, overlapping on both axes."""
    return tiles(
        (1, HEIGHT, width),
        window=(1, WINDOW, WINDOW),
        overlap=(0, overlap, overlap),
        periodic=(False, False, periodic),
    )


def run(out: Path, *, seed: int = 0, width: int = WIDTH, steps: int = STEPS) -> list[Row]:
    """Samples, and writes `demo.png` and `demo.json` into a folder.

    Args:
        out: folder, made if need be.
        seed: of all noise.
        width: of the images in pixels, a multiple of 16.
        steps: noise levels of the sampler; Heun evaluates the score 2 steps - 1 times.

    Returns:
        The table, the photograph first.
    """
    from pgmdiff.plotting import strips as draw_strips

    methods: dict[str, tuple[RegionGraph, Rule]] = {
        "concatenation": (strip(width, 0), Marginal()),
        "overlap averaging": (strip(width, OVERLAP), Average()),
        "DiffCollage strip": (strip(width, OVERLAP), Marginal()),
        "DiffCollage ring": (strip(width, OVERLAP, periodic=True), Marginal()),
    }
    real = gravel_image()[0]
    rows = [Row("real", seam_ratio(real, range(OVERLAP, real.shape[1], OVERLAP)))]
    images, denoiser = {}, gravel_denoiser()
    for method, (graph, rule) in tqdm(methods.items(), desc="demo", unit="image"):
        images[method], row = _sampled(method, graph, rule, denoiser, seed, steps)
        rows.append(row)
    out.mkdir(parents=True, exist_ok=True)
    strips, seams, joins = _panels(real, images, rows)
    title = f"Images of {HEIGHT} × {width} from one model of {WINDOW} × {WINDOW} patches"
    figure = draw_strips(strips, seams=seams, joins=joins, title=title)
    figure.savefig(out / "demo.png", dpi=110)
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
    """The rows as text."""
    lines = [f"{'method':20} {'seam ratio':>10} {'seconds':>8} {'evaluations':>11} {'patches':>9}"]
    for row in rows:
        lines.append(
            f"{row.method:20} {row.seam_ratio:10.3f} {row.seconds:8.1f} "
            f"{row.score_evaluations:11d} {row.network_patches:9d}"
        )
    return "\n".join(lines)


def _sampled(
    method: str,
    graph: RegionGraph,
    rule: Rule,
    denoiser: Callable[..., Tensor],
    seed: int,
    steps: int,
) -> tuple[Tensor, Row]:
    counted = Counted(denoiser)
    joint = compose(graph, from_denoiser(counted), rule=rule, max_batch=MAX_BATCH)
    start = time.perf_counter()
    (image,) = sample(
        joint,
        karras(steps, SIGMA_MIN, SIGMA_MAX),
        shape=(1, *graph.event_shape),
        solver=Heun(),
        generator=seed,
    )
    seconds = time.perf_counter() - start
    patches = sum(len(batch.group) for batch in joint.batches)
    periodic = "ring" in method
    ratio = seam_ratio(image[0], _seams(method, image.shape[-1]), periodic=periodic)
    return image[0], Row(method, ratio, seconds, counted.patches // patches, counted.patches)


def _seams(method: str, width: int) -> range:
    """Columns where a piece begins or ends."""
    stride = WINDOW if method == "concatenation" else OVERLAP
    return range(0 if "ring" in method else stride, width, stride)


def _panels(
    real: Tensor, images: dict[str, Tensor], rows: list[Row]
) -> tuple[dict[str, Tensor], dict[str, range], dict[str, int]]:
    """Captions to strips, to their seams and to where a ring's ends meet: it is rolled by half."""
    ratio = {row.method: f"seam ratio {row.seam_ratio:.2f}" for row in rows}
    strips = {f"real photograph, {ratio['real']}": real[:HEIGHT]}
    seams, joins = {next(iter(strips)): range(0)}, {}
    for method, image in images.items():
        ring = "ring" in method
        middle = image.shape[1] // 2
        shown = image.roll(middle, dims=1) if ring else image
        how = ", shown shifted by half: its ends meet at the blue mark" if ring else ""
        caption = f"{method}{how}, {ratio[method]}"
        strips[caption], seams[caption] = shown, _seams(method, image.shape[1])
        if ring:
            joins[caption] = middle
    return strips, seams, joins
