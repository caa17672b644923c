r"""Experiment 2: translation of real pictures, on strips of any width, by a network of patches.

*Connect* (Fig. 6). The ends of a strip are real patches. The network of those between them sees
low-resolution colours as conditions, which pass from one end to the other; see `passage`.
*Inpaint* and *super-resolution* (Fig. 7). Real pictures four patches wide are restored from a tenth
of their pixels, or from means of 4 × 4 pixels, with noise: by joints, and by the patches alone.
*Strokes* (Fig. 12). Paintings of flat colours are noised to σ and denoised by the joint (SDEdit:
Meng et al., "SDEdit: guided image synthesis and editing with stochastic differential equations",
2022).

Colours are means of 8 × 8 pixels, and detail is the standard deviation of pixels about them.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from scipy.cluster.vq import kmeans2
from torch import Tensor
from tqdm import tqdm

from benchmarks.reports import columns, plus_minus, settings, table
from experiments.corpora import CORPORA, Corpus, colour_map
from experiments.strips import Windows
from pgmdiff import baselines, field
from pgmdiff import conditioning as ways
from pgmdiff.composition import Consistent, Joint, compose
from pgmdiff.diagnostics import crps, interval_coverage
from pgmdiff.diagnostics.metrics import mean_and_error, seam_ratio
from pgmdiff.graphs import RegionGraph, tiles
from pgmdiff.plotting.style import Sheet, picture
from pgmdiff.samplers import sample
from pgmdiff.scores.adapters import Score, from_denoiser
from pgmdiff.scores.guidance import slerp
from pgmdiff.text import Table

__all__ = ["PARTS", "Studio", "colour_map", "draw", "passage", "run", "tables"]

CORPUS, LEVELS, BLOCK, ROWS = "landscape", 16, 8, 64
PAIRS, SEEDS, REAL, PICTURES, DRAWS = 4, 3, 24, 8, 19
SHARE, COARSE, NOISE = 0.1, 4, 0.01  # the noise is about one of 256 shades
STATES, RANK, STEPS = 1000, 64, 30
"""Of the covariances: real crops, and rank. Steps of the solves with them."""
MORE_STEPS, FEW_STEPS, FEW_DRAWS = 12, 3, 3
"""With Jacobians, which cost a gradient per step."""
STRENGTHS = (0.3, 0.7, 1.5)
"""Noise levels of paintings."""


@dataclass(frozen=True, eq=False)
class Studio:
    """A corpus with its network, where it runs, and whether everything is as small as possible."""

    corpus: Corpus
    device: str = "cpu"
    smoke: bool = False

    @cached_property
    def score(self) -> Score:
        return from_denoiser(self.corpus.denoiser().to(self.device))

    @cached_property
    def levels(self) -> list[float]:
        return self.corpus.levels(4 if self.smoke else LEVELS)

    def few(self, number: int, smoke: int = 2) -> int:
        return smoke if self.smoke else number

    def real(self, patches: int, n: int, seed: int) -> Tensor:
        """Real pictures, so many patches wide."""
        side = self.corpus.side
        return self.corpus.crops((side, patches * side), n, torch.Generator().manual_seed(seed))

    def strip(self, patches: int, overlap: bool = True) -> RegionGraph:
        """Patches that overlap by half, or not at all."""
        side = self.corpus.side
        return tiles((3, side, patches * side), (3, side, side), (0, 0, side // 2 * overlap))

    def joint(self, patches: int) -> Joint:
        return compose(self.strip(patches), self.score, max_batch=ROWS)

    def consistent(self, patches: int, overlap: bool = True, colours: bool = False) -> Joint:
        """A joint with covariances of real patches, or of what their colours leave open.

        Without overlaps it consists of patches each of which is alone.
        """
        graph, size = self.strip(patches, overlap), (self.corpus.side, 3 * self.corpus.side // 2)
        data = self.corpus.crops(size, self.few(STATES, 200), torch.Generator().manual_seed(5))
        if colours:
            data = data - colour_map(data)[:, :3]
        rule = Consistent(Windows.fit(data, size[0], self.few(RANK, 16)))
        return compose(graph, self.score, rule=rule, max_batch=ROWS)

    def draws(self, score: Score, like: Tensor, seed: int) -> Tensor:
        """Samples, as many and as large as these states."""
        shape, device = like.shape, self.device
        return sample(score, self.levels, shape=shape, generator=seed, device=device).cpu()


def passage(left: Tensor, right: Tensor, gap: int) -> Tensor:
    """The colour maps of strips that end with two pictures: theirs, and a passage between.

        column j of the gap = slerp(a, b, (j + 1) / (gap + 1))

    a and b are the last column of the left map and the first of the right one, all rows and
    colours, as shares of full brightness: vectors without negative entries are never opposite.

    Args:
        left, right: pictures `[n, 3, height, width]`.
        gap: number of columns between them.
    """
    ends = [colour_map(each) for each in (left, right)]
    a, b = ((end[:, :3, :, k] + 1).flatten(1) / 2 for end, k in zip(ends, (-1, 0), strict=True))
    between = [slerp(a, b, t) for t in torch.arange(1, gap + 1) / (gap + 1)]
    middle = 2 * torch.stack(between, dim=2).reshape(len(a), 3, -1, gap) - 1
    return torch.cat([ends[0], F.pad(middle, (0, 0, 0, 0, 0, 1), value=1.0), ends[1]], dim=3)


def _detail(u: Tensor) -> Tensor:
    means = F.interpolate(F.avg_pool2d(u, BLOCK), u.shape[2:], mode="nearest")
    return _rms(u - means)


def _jump(u: Tensor) -> Tensor:
    """The largest difference of the mean colours of neighbouring blocks of columns, `[n]`."""
    colours = F.avg_pool2d(u, (u.shape[2], BLOCK))[:, :, 0]
    found: Tensor = colours.diff(dim=2).norm(dim=1).amax(dim=1)
    return found


def _rms(difference: Tensor) -> Tensor:
    return difference.square().flatten(1).mean(dim=1).sqrt()


def _seams(u: Tensor, places: Sequence[int]) -> Tensor:
    return torch.tensor([seam_ratio(each, places) for each in u])


def _means(**values: Tensor) -> dict[str, Any]:
    """Means over pictures, with their standard errors."""
    return {name: [*mean_and_error(value.tolist())] for name, value in values.items()}


def connect(studio: Studio) -> dict[str, Any]:
    """Two real pictures connected: with conditions, without, and by a fade."""
    studio = replace(studio, corpus=replace(studio.corpus, lowest=NOISE))  # far below, solves fail
    side, n = studio.corpus.side, studio.few(PAIRS, 1)
    gap, pictures, chosen = 4 * side, studio.real(1, 2 * n, 1), list[int]()
    maps = colour_map(pictures).flatten(1)
    apart = torch.cdist(maps, maps)
    for _ in range(n):  # those that differ most
        chosen += divmod(int(apart.argmax()), len(apart))
        apart[chosen], apart[:, chosen] = -1, -1
    left, right = pictures[chosen[::2]], pictures[chosen[1::2]]
    observed = torch.cat([left, left.new_ones(n, 3, side, gap), right], dim=3)
    seen = torch.ones(observed.shape[1:], dtype=torch.bool)
    seen[..., side:-side] = False
    maps, real = passage(left, right, gap), studio.real(5, studio.few(REAL), 3)
    joint, whole, given = studio.joint(6), studio.consistent(6), studio.consistent(6, colours=True)
    methods: dict[str, tuple[Joint, Any, int, bool]] = {
        "colours as conditions": (joint, ways.Composed(given), STEPS, True),
        "Consistent": (given, ways.Composed(given), STEPS, True),
        "Jacobians": (joint, ways.Tweedie(), MORE_STEPS, True),
        "no conditions": (joint, ways.Composed(whole), STEPS, False),
    }
    scores, colours = dict[str, Score](), field(maps.to(studio.device))
    for name, (own, covariance, steps, bound) in methods.items():
        options: dict[str, Any] = {"noise": NOISE, "most_steps": steps}
        score = ways.moment_matching(own, observed, seen, covariance, **options)
        scores[name] = partial(score, field=colours) if bound else score
    mirrored = [torch.cat(x * 3, dim=3) for x in ([left, left.flip(3)], [right.flip(3), right])]
    t = ((torch.arange(6 * side) - side + 1) / (gap + 1)).clamp(0, 1)
    found = {
        name: torch.cat([studio.draws(each, observed, k) for k in range(studio.few(SEEDS, 1))])
        for name, each in scores.items()
    }
    found["fade of pixels"] = (1 - t) * mirrored[0] + t * mirrored[1]
    rows: list[dict[str, Any]] = []
    for name, u in {"real strips": real, **found}.items():
        middle = u if u is real else u[..., side:-side]
        values = {"seams": _seams(u, [side, u.shape[3] - side])}
        values["jump"] = _jump(u) / _jump(real).mean()
        values["detail"] = _detail(middle) / _detail(real).mean()
        if u is not real:
            away = colour_map(u) - maps.repeat(len(u) // n, 1, 1, 1)
            values["colours"] = _rms(away[:, :3, :, side:-side])
            values["ends"] = _rms((u - observed.repeat(len(u) // n, 1, 1, 1))[:, seen])
        rows.append({"method": name, **_means(**values)})
    shown = {"observed": observed, "colours": maps[:, :3], **found}
    titles = ("one pair", "another pair")[:n]
    panels = {t: {k: encoded(u[i]) for k, u in shown.items()} for i, t in enumerate(titles)}
    return {"rows": rows, "pictures": panels}


def inpaint(studio: Studio) -> dict[str, Any]:
    """Real pictures restored from a tenth of their pixels."""
    truth, device = studio.real(4, studio.few(PICTURES), 2), studio.device
    kept = torch.rand(truth.shape[2:], generator=torch.Generator().manual_seed(0)) < SHARE
    mask, pieces = kept.expand(truth.shape[1:]).clone(), studio.strip(4, overlap=False)

    def replaced(y: Tensor, seed: int) -> Tensor:
        options: dict[str, Any] = {"batch": len(y), "generator": seed, "device": device}
        given = pieces, studio.levels, y, mask
        return baselines.split_and_inpaint(studio.score, *given, **options).samples.cpu()

    others = {"each patch alone, replacement": (replaced, studio.few(DRAWS))}
    return _restored(studio, truth, ways.Mask(mask), lambda y: y.where(mask, 1), others)


def super_resolution(studio: Studio) -> dict[str, Any]:
    """Real pictures restored from the means of blocks of 4 × 4 pixels."""
    truth = studio.real(4, studio.few(PICTURES), 2)
    operator = ways.block_average(truth.shape[1:], COARSE)
    larger = partial(F.interpolate, size=truth.shape[2:])
    others = {"bicubic": (lambda y, seed: larger(y, mode="bicubic"), 1)}
    return _restored(studio, truth, operator, larger, others)


def _restored(
    studio: Studio,
    truth: Tensor,
    operator: ways.Operator,
    shown: Callable[[Tensor], Tensor],
    others: Mapping[str, tuple[Callable[[Tensor, int], Tensor], int]],
) -> dict[str, Any]:
    """Draws given y = H u + noise, by joints, by patches alone and by other functions of y."""
    shape, generator = operator.observed_shape, torch.Generator().manual_seed(7)
    noise = torch.randn(len(truth), *shape, generator=generator)
    y, many, joint = operator.A(truth) + NOISE * noise, studio.few(DRAWS), studio.joint(4)
    whole, alone = studio.consistent(4), studio.consistent(4, overlap=False)

    def by(joint: Joint, covariance: Any, steps: int) -> Callable[[Tensor, int], Tensor]:
        def drawn(y: Tensor, seed: int) -> Tensor:
            options: dict[str, Any] = {"noise": NOISE, "most_steps": steps}
            guided = ways.moment_matching(joint, y, operator, covariance, **options)
            return studio.draws(guided, truth[:1].expand(len(y), -1, -1, -1), seed)

        return drawn

    methods = {
        **others,
        "each patch alone": (by(alone, ways.Composed(alone), STEPS), many),
        "DiffCollage": (by(joint, ways.Composed(whole), STEPS), many),
        "Consistent": (by(whole, ways.Composed(whole), STEPS), many),
        "DiffCollage, Jacobians": (by(joint, ways.Tweedie(), FEW_STEPS), studio.few(FEW_DRAWS)),
    }
    mask = operator.mask if isinstance(operator, ways.Mask) else torch.zeros_like(truth[0]) > 0
    places = range(studio.corpus.side, truth.shape[3], studio.corpus.side)
    rows: list[dict[str, Any]] = []
    rows.append({"method": "the pictures themselves", **_means(seams=_seams(truth, places))})
    strips = {"picture": truth[0], "observed": shown(y)[0]}
    for name, (method, m) in tqdm(methods.items(), desc="restoring"):
        u = torch.stack([method(each.expand(m, *each.shape), k) for k, each in enumerate(y)])
        free, known, strips[name] = u[:, :, ~mask], truth[:, ~mask], u[0, 0]
        pairs = list(zip(free.split(1), known.split(1), strict=True))
        values = {"rmse": _rms(free - known[:, None])}
        values["psnr"] = 20 * (2 / values["rmse"]).log10()
        values["seams"] = torch.stack([_seams(each, places).mean() for each in u])
        if m > 1:
            values["mean_rmse"] = _rms(free.mean(dim=1) - known)
            values["crps"] = torch.tensor([crps(*pair) for pair in pairs])
        if m == DRAWS:
            values["coverage"] = torch.tensor([interval_coverage(*pair, 0.9) for pair in pairs])
        rows.append({"method": name, "draws": m, **_means(**values)})
    return {"rows": rows, "pictures": {name: encoded(each) for name, each in strips.items()}}


def strokes(studio: Studio) -> dict[str, Any]:
    """Paintings of flat colours, noised to some levels and denoised."""
    real, joint = studio.real(5, studio.few(REAL), 3), studio.joint(5)
    paintings = {"colours of a picture": quantised(real[0]), "painted by hand": painted(real[0])}
    rows, shown = list[dict[str, Any]](), dict[str, dict[str, str]]()
    for name, painting in paintings.items():
        shown[name] = {"painting": encoded(painting)}
        start = painting.expand(studio.few(SEEDS), -1, -1, -1)
        for sigma in STRENGTHS:
            levels = [0.0, sigma, *(level for level in studio.levels if level < sigma)]
            u = sample(joint, levels, x=start, generator=0, device=studio.device).cpu()
            away = (colour_map(u) - colour_map(start))[:, :3]
            figures = _means(colours=_rms(away), detail=_detail(u) / _detail(real).mean())
            rows.append({"painting": name, "σ": sigma, **figures})
            shown[name][f"σ = {sigma}"] = encoded(u[0])
    return {"rows": rows, "pictures": shown}


def quantised(real: Tensor, colours: int = 6) -> Tensor:
    """A picture in few flat colours: those of the clusters of the means of 4 × 4 pixels."""
    means = F.avg_pool2d(real, 4)
    palette, own = kmeans2(means.flatten(1).T.numpy(), colours, minit="++", seed=0)
    flat = torch.from_numpy(palette[own]).to(real).T.reshape(means.shape)
    return F.interpolate(flat[None], real.shape[1:], mode="nearest")[0]


def painted(like: Tensor) -> Tensor:
    """A sky of three bands, a sun, a plain, hills, and a meadow, all of them rectangles."""
    canvas, (_, height, width) = torch.empty_like(like), like.shape
    for top, bottom, left, right, *colour in (
        (0.0, 0.2, 0.0, 1.0, 0.35, 0.55, 0.8),
        (0.2, 0.4, 0.0, 1.0, 0.55, 0.7, 0.85),
        (0.4, 0.6, 0.0, 1.0, 0.85, 0.8, 0.75),
        (0.15, 0.35, 0.75, 0.8, 1.0, 0.95, 0.8),
        (0.6, 1.0, 0.0, 1.0, 0.3, 0.35, 0.2),
        (0.45, 0.7, 0.0, 0.2, 0.3, 0.35, 0.45),
        (0.35, 0.7, 0.2, 0.35, 0.25, 0.3, 0.4),
        (0.5, 0.7, 0.35, 0.55, 0.3, 0.35, 0.45),
        (0.75, 1.0, 0.4, 1.0, 0.45, 0.4, 0.25),
    ):
        rows, across = slice(int(top * height), int(bottom * height)), int(left * width)
        canvas[:, rows, across : int(right * width)] = 2 * torch.tensor(colour)[:, None, None] - 1
    return canvas


PARTS: dict[str, Callable[[Studio], dict[str, Any]]] = {
    "connect": connect,
    "inpaint": inpaint,
    "super_resolution": super_resolution,
    "strokes": strokes,
}
"""The parts of the experiment, by name."""


def run(
    *, smoke: bool = False, device: str = "cpu", parts: Sequence[str] = tuple(PARTS)
) -> dict[str, Any]:
    """Runs the parts, or with `smoke` their smallest cases: rows of figures, and pictures."""
    studio = Studio(CORPORA[CORPUS], device, smoke)
    sampler = f"UniPC, {len(studio.levels) - 1} evaluations from σ = {studio.levels[0]:g}"
    about = settings(corpus=studio.corpus.title, sampler=sampler, noise=NOISE)
    return {"settings": about, **{name: PARTS[name](studio) for name in parts}}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """A table for each part that was run."""
    restored = "method draws", "rmse psnr mean_rmse crps coverage seams"
    heads = {"connect": ("method", "seams jump detail colours ends")}
    heads |= dict.fromkeys(("inpaint", "super_resolution"), restored)
    heads["strokes"] = "painting σ", "colours detail"

    def estimate(key: str, row: Mapping[str, Any]) -> str:
        return plus_minus(row[key], ".3f")

    found = []
    for name, (index, keys) in heads.items():
        title = f"{name.replace('_', ' ').capitalize()}: means over pictures"
        cells = {key.replace("_", " "): partial(estimate, key) for key in keys.split()}
        if name in result:
            found.append(table(title, result[name]["rows"], columns(index) | cells))
    return found


def encoded(image: Tensor) -> str:
    """A picture `[3, height, width]` as a JPEG in base64."""
    file, pixels = BytesIO(), (picture(image) * 255).round().astype("uint8")
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    return base64.b64encode(file.getvalue()).decode()


def draw(result: Mapping[str, Any], folder: Path) -> None:
    """Draws three figures into a folder: connections, restored pictures, and strokes."""
    folder.mkdir(parents=True, exist_ok=True)
    restored = {"a tenth of the pixels": "inpaint", "means of 4 × 4 pixels": "super_resolution"}
    sheets = {name: result.get(name, {}).get("pictures", {}) for name in ("connect", "strokes")}
    sheets["restored"] = {t: result[n]["pictures"] for t, n in restored.items() if n in result}
    for name, panels in sheets.items():
        if panels:
            figure = _sheet(panels, ticks=name == "restored")
            figure.savefig(folder / f"experiment_translation_{name}.png", dpi=100)


def _sheet(panels: Mapping[str, Mapping[str, str]], *, ticks: bool) -> Sheet:
    """Columns of captioned pictures, with ticks where patches that do not overlap meet."""
    lines = max(map(len, panels.values()))
    figure = Sheet(figsize=(7 * len(panels), 1.95 * lines), layout="constrained")
    axes = figure.subplots(lines, len(panels), squeeze=False)
    for column, (title, pictures) in zip(axes.T, panels.items(), strict=True):
        for axis in column:
            axis.set_axis_off()
        for axis, (name, text) in zip(column, pictures.items(), strict=False):
            image = Image.open(BytesIO(base64.b64decode(text)))
            axis.imshow(image, interpolation="nearest")
            axis.set_title(f"{name} ({title})" if axis is column[0] else name, loc="left")
            meet = range(image.height, image.width, image.height) if ticks else ()
            for place in meet:
                axis.axvline(place - 0.5, -0.06, 0, color="#b2182b", clip_on=False)
    return figure
