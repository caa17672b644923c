"""Infinite images: strips many patches wide from a model of patches (DiffCollage's Tables 1 and 2).

For each corpus there are five parts. *gate*: single patches against real crops, and whether they
are copies. *quality*: strips of 8 patches by every method. *size*: evaluations, time, and quality
against the distance from the first piece, for strips of 1 to 32 patches. *sampler*: the paper's
sampler beside ours. *time*: methods with so many levels that all take about as long. Drawings are
kept in `out/experiments`: parts of several corpora can be run in processes at once, and what was
drawn is not drawn again.

FD is the Fréchet distance of features in units of the real ones; it is no FID. There are two kinds
of features: those of a *pretrained* network, which sees what pictures show, and *textures*,
`texture_features`, which see the faintest noise. As when pictures are stored, of these what is
weaker than one level of 8 bits hardly counts; the gate says what FD is without this (`fine`), where
it sees the finest colours of a JPEG, which are weaker.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.reports import Column, columns, measured, points, settings, table
from experiments.corpora import CORPORA, Corpus
from experiments.memory import nearest
from experiments.pretrained import pretrained_features
from experiments.strips import METHODS, Strips, cost, crops, patches_of, seams, strips
from pgmdiff.diagnostics import bootstrap, metrics
from pgmdiff.samplers import EDM
from pgmdiff.text import Table
from pgmdiff.training import crops as cut

__all__ = ["FEATURES", "PARTS", "apart", "draw", "looks", "run", "tables"]

REAL = "real"
Extractor = Callable[[Tensor], Tensor]
FEATURES = partial(metrics.texture_features, least=0.02)
"""What is weaker than one level of 8 bits hardly counts: no picture shows it."""
EXTRACTORS: dict[str, Extractor] = {"pretrained": pretrained_features, "textures": FEATURES}
FAINT = (0.005, 0.01, 0.02, 0.05)
"""Noise that is added to real crops; one level of 8 bits is 0.008."""
TIMED = ("replacement", "average", "DiffCollage")
EQUAL = {"replacement": 1.3, "average": 1.45, "DiffCollage": 1.0}
"""Levels of the part time, over those of all others."""
Cases = Mapping[str, tuple[str, dict[str, Any]]]
"""By name a method and its own options."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        patches, many: of the gate: number of samples of every shape, and of whole patches.
        strips: per seed; `seeds`, their number.
        wide: W/H of the strips whose quality is measured; `widths`, all W/H.
        crops: of all strips of a method together, about.
        timed, stochastic: strips per seed of the parts size and sampler.
        steps, slow: levels of our sampler, and of the paper's.
        resamples: of the bootstrap.
        near: number of patches whose nearest real crop is looked for.
        seen: the features of FD, by name; the pretrained network is in a package of its own.
        device: where to sample.
    """

    patches: int = 1024
    many: int = 2048
    strips: int = 16
    seeds: int = 3
    wide: int = 8
    widths: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    crops: int = 5040
    timed: int = 4
    stochastic: int = 4
    steps: int = 20
    slow: int = 80
    resamples: int = 100
    near: int = 128
    seen: str = "pretrained"
    device: str = "cpu"

    def extractor(self) -> Extractor:
        """The features of FD."""
        own = {"device": self.device} if self.seen == "pretrained" else {}
        return partial(EXTRACTORS[self.seen], **own)


SMOKE = Sizes(16, 24, 4, 1, 5, (1, 4), 96, 4, 4, 2, 2, 4, 4, seen="textures")
FULL = Sizes()


def run(
    *, smoke: bool = False, device: str = "cpu", parts: Sequence[str] | None = None
) -> dict[str, Any]:
    """Measures the parts, or with `smoke` a little of each."""
    sizes = replace(SMOKE if smoke else FULL, device=device)
    about = settings(
        threads=torch.get_num_threads(), seeds=sizes.seeds, strips=sizes.strips, levels=sizes.steps
    )

    def measure(name: str) -> dict[str, Any]:
        corpus, _, part = name.partition("-")
        return MEASURED[part](CORPORA[corpus], sizes)

    found = measured(parts or PARTS, measure, 5)
    return {"settings": about, "sizes": asdict(sizes), **found}


def _gate(corpus: Corpus, sizes: Sizes) -> dict[str, Any]:
    """Patches of every trained shape against real crops, and the nearest real crops."""
    rows: list[dict[str, Any]] = []
    patches = torch.empty(0)
    shapes = [shape[1:] for shape in corpus.shapes]
    cases = [(shapes[0], sizes.many), *((shape, sizes.patches) for shape in shapes)]
    for shape, n in tqdm(cases, desc=f"{corpus.name} gate"):
        real, other = (crops(corpus, shape[1], n, seed, shape[0]) for seed in (1, 2))
        if shape != shapes[0] or not len(patches):
            drawn = patches_of(corpus, real.shape[1:], n, steps=sizes.steps, device=sizes.device)
            patches = patches if len(patches) else drawn
        else:
            drawn = patches[:n]
        fd, floor = apart(FEATURES, real, drawn, other)
        fine = apart(metrics.texture_features, real, drawn, other)
        row: dict[str, Any] = {"shape": f"{shape[0]}×{shape[1]}", "n": n, "fd": fd, "floor": floor}
        row |= {"ratio": fd / floor, "fine": fine[0] / fine[1]}
        half = cut([real.shape[1:]], middle(corpus)).draw(n, 5).clean
        seen, least, row["half"] = apart(sizes.extractor(), real, drawn, other, half)
        row |= {"seen": seen, "seen_floor": least, "seen_ratio": seen / least}
        row["passed"] = seen <= 3 * least
        row |= {"shift": (drawn.mean() - real.mean()).item(), **looks(drawn, real)}
        rows.append(row)
    pictures = corpus.states()
    alike = [each for each in pictures if each.shape == pictures[0].shape]  # of one scale
    real = cut([patches.shape[1:]], alike).draw(sizes.near, torch.Generator().manual_seed(3)).clean
    copies: dict[str, Any] = {"data_std": real.std().item(), "n": sizes.near}
    copies["drawn"] = nearest(patches[: sizes.near], pictures)
    copies["real"] = nearest(real, alike, apart=True)
    return {"rows": rows, "copies": [copies], "faint": _faint(corpus, sizes)}


def _faint(corpus: Corpus, sizes: Sizes) -> list[dict[str, float]]:
    """What both kinds of features say of real crops with a little noise, in floors."""
    real, other = (crops(corpus, corpus.side, sizes.patches, seed) for seed in (1, 2))
    stream, rows = torch.Generator().manual_seed(4), []
    noise = torch.randn(other.shape, generator=stream)
    for sigma in FAINT:
        row = {"sigma": sigma}
        features: dict[str, Extractor] = {"seen_ratio": sizes.extractor(), "ratio": FEATURES}
        for key, extractor in features.items():
            fd, floor = apart(extractor, real, other + sigma * noise, other)
            row[key] = fd / floor
        rows.append(row)
    return rows


def middle(corpus: Corpus) -> list[Tensor]:
    """The middle half of every picture, which is also that of its mirror image."""
    return [x[:, :, x.shape[2] // 4 : -(x.shape[2] // 4)] for x in corpus.states()]


def apart(extractor: Extractor, real: Tensor, *others: Tensor) -> list[float]:
    """The Fréchet distance of each of the others from real crops."""
    features = extractor(real)
    return [_fd(extractor(x), features) for x in others]


def looks(drawn: Tensor, real: Tensor) -> dict[str, float]:
    """Contrast and the jump between columns, 1 if they are those of real crops."""
    jumps = [x.diff(dim=3).abs().mean() for x in (drawn, real)]
    return {"contrast": (drawn.std() / real.std()).item(), "step": (jumps[0] / jumps[1]).item()}


class Ruler:
    """Compares strips with real ones, of which there are as many pixels.

    Real strips are 5 patches wide. So that sets are equal in size, two of them, cut to half the
    width of a strip, stand for one strip of 8 patches.
    """

    def __init__(self, corpus: Corpus, sizes: Sizes, n: int) -> None:
        self.corpus, self.sizes, self.n = corpus, sizes, n
        self.crops = 2 * max(4, sizes.crops // (2 * sizes.seeds * sizes.strips))
        self.real, self.floor = (
            crops(corpus, 5 * corpus.side, 2 * n * sizes.seeds, seed) for seed in (1, 2)
        )
        self.features = self.of_real(self.real)
        shape = self.real.shape[1], corpus.side, corpus.side
        own = patches_of(corpus, shape, sizes.many, steps=sizes.steps, device=sizes.device)
        self.own = FEATURES(own)[:, None]
        self.extractor = sizes.extractor()
        self.seen = self.of_real(self.real, self.extractor)
        self.seen_own = self.extractor(own)[:, None]

    def of_real(self, real: Tensor, extractor: Extractor = FEATURES) -> Tensor:
        half = real[..., : self.sizes.wide * self.corpus.side // 2]
        found = self.of(half, self.crops // 2, extractor)
        return found.reshape(len(found) // 2, self.crops, -1)

    def of(self, images: Tensor, m: int, extractor: Extractor = FEATURES) -> Tensor:
        shape = self.corpus.side, self.corpus.side
        return metrics.crop_features(images, shape, m, extractor=extractor, generator=5)

    def rows(self, found: Mapping[str, Sequence[Strips]]) -> list[dict[str, Any]]:
        """A row of figures for real strips, the floor, and for each method's, seed by seed."""
        rows = [self.row(REAL, self.floor.chunk(self.sizes.seeds), self.of_real(self.floor))]
        halves = self.own.chunk(2)  # of which each is as good as the other
        rows[0]["fd_own_floor"] = self.interval(_fd, *halves)
        rows[0] |= self.apart(self.of_real(self.floor, self.extractor))
        rows[0]["seen_own_floor"] = self.interval(_fd, *self.seen_own.chunk(2))
        for name, drawn in tqdm(found.items(), desc=f"{self.corpus.name}, measures"):
            groups = [each.images for each in drawn]
            images = torch.cat(groups)
            row = self.row(name, groups, self.of(images, self.crops))
            row |= self.apart(self.of(images, self.crops, self.extractor))
            row |= {key: getattr(drawn[0], key) for key in ("evaluations", "critical_path")}
            rows.append(row | {"seconds": sum(each.seconds for each in drawn) / len(drawn)})
        return rows

    def row(self, name: str, groups: Sequence[Tensor], features: Tensor) -> dict[str, Any]:
        side, longest = self.corpus.side, 4 * self.corpus.side
        row: dict[str, Any] = {"method": name, "crops": features.shape[0] * features.shape[1]}
        few = (features[:, :16], self.features[:, :16])
        row["fd"] = self.interval(_fd, features, self.features)
        row["fd_own"] = self.interval(_fd, features, self.own)
        row["kid"] = self.interval(metrics.kernel_distance, *few)
        row["precision"] = self.interval(metrics.manifold_precision, *few)
        row["recall"] = self.interval(metrics.manifold_recall, *few)

        def over_seeds(measure: Callable[[Tensor], float]) -> tuple[float, float | None]:
            return metrics.mean_and_error([measure(group) for group in groups])

        def decibels(x: Tensor) -> Tensor:
            return 10 * metrics.spectrum(x[..., : 5 * side]).log10()

        real, truth = self.real, decibels(self.real)
        correlation = metrics.autocorrelation(real, longest)
        places = seams(self.corpus, name, groups[0].shape[-1])
        row["seam_ratio"] = over_seeds(lambda x: metrics.seam_ratio(x, places))
        row["contrast"] = over_seeds(lambda x: looks(x, real)["contrast"])
        row["autocorrelation"] = over_seeds(
            lambda x: float(_rms(metrics.autocorrelation(x, longest) - correlation))
        )
        row["spectrum"] = over_seeds(lambda x: float(_rms(decibels(x) - truth)))
        row["long_waves"] = over_seeds(lambda x: float((decibels(x) - truth)[:2].mean()))
        for lag in (side // 2, side, 2 * side, longest):
            row[f"columns_{2 * lag // side}"] = over_seeds(partial(_columns, lag=lag))
        return row

    def apart(self, features: Tensor) -> dict[str, Any]:
        """FD+ from real crops and from the model's own patches."""
        return {
            "seen": self.interval(_fd, features, self.seen),
            "seen_own": self.interval(_fd, features, self.seen_own),
        }

    def interval(self, metric: Callable[..., float], *sets: Tensor) -> list[float]:
        """Low end, value and high end."""
        options: dict[str, Any] = {"resamples": self.sizes.resamples, "generator": 6}
        value, low, high = bootstrap(metric, *sets, **options)
        return [low, value, high]


def _fd(a: Tensor, b: Tensor) -> float:
    return metrics.frechet_distance(a, b, relative=True)


def _rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


def _columns(x: Tensor, lag: int) -> float:
    """The correlation of the mean colours of columns at a distance."""
    return metrics.autocorrelation(x.mean(dim=2), lag)[lag].item()


def _drawn(
    corpus: Corpus, cases: Cases, wide: int, n: int, sizes: Sizes
) -> dict[str, list[Strips]]:
    """Strips of every seed for each case, a method with options."""
    jobs = [(name, seed) for seed in range(sizes.seeds) for name in cases]
    found: dict[str, list[Strips]] = {name: [] for name in cases}
    for name, seed in tqdm(jobs, desc=f"{corpus.name}, W/H = {wide}"):
        method, more = cases[name]
        options = {"steps": sizes.steps, "device": sizes.device, **more}
        found[name].append(strips(corpus, method, wide * corpus.side, n, seed, **options))
    return found


def _quality(corpus: Corpus, sizes: Sizes) -> dict[str, Any]:
    """Every method's strips against real ones."""
    cases: Cases = {method: (method, {}) for method in METHODS}
    found = _drawn(corpus, cases, sizes.wide, sizes.strips, sizes)
    return {"rows": Ruler(corpus, sizes, sizes.strips).rows(found)}


def _size(corpus: Corpus, sizes: Sizes) -> dict[str, Any]:
    """Costs for all widths, and quality against the distance from the middle of the widest."""
    rows: list[dict[str, Any]] = []
    position: list[dict[str, Any]] = []
    side, n, alone = corpus.side, sizes.timed, replace(sizes, seeds=1)
    cases: Cases = {method: (method, {}) for method in TIMED}
    widest: dict[str, list[Strips]] = {}
    for wide in sizes.widths:
        last = wide == sizes.widths[-1]
        widest = _drawn(corpus, cases, wide, n, sizes if last else alone)
        for method in METHODS:
            evaluations, path = cost(corpus, method, wide * side, sizes.steps)
            row: dict[str, Any] = {"method": method, "wide": wide, "evaluations": evaluations}
            row["critical_path"] = path
            if method in widest:
                row["seconds"] = widest[method][0].seconds
                row["over_average"] = row["seconds"] / widest["average"][0].seconds
            rows.append(row)
    ruler = Ruler(corpus, sizes, n)
    ends = [0.0, *(wide / 2 for wide in sizes.widths if wide > 1)]
    for method in TIMED:
        images = torch.cat([each.images for each in widest[method]])
        middle = images.shape[-1] // 2
        for near, far in pairwise(ends):
            a, b = int(near * side), int(far * side)
            parts = images[..., middle - b : middle - a], images[..., middle + a : middle + b]
            features = torch.cat([ruler.of(part, 16) for part in parts], dim=1)
            row = {"method": method, "distance": (near + far) / 2, "from": near, "to": far}
            row["kid"] = ruler.interval(metrics.kernel_distance, features, ruler.features[:, :32])
            both = torch.cat(parts)
            position.append(row | looks(both, ruler.real))
    return {"rows": rows, "position": position}


def _sampler(corpus: Corpus, sizes: Sizes) -> dict[str, Any]:
    """DiffCollage with our sampler, and with the paper's: EDM's, with churn."""
    ours = "DPM-Solver++ 2M" + " SDE" * bool(corpus.solver.eta)
    cases: Cases = {
        f"{ours}, {sizes.steps} levels": ("DiffCollage", {}),
        f"EDM stochastic, {sizes.slow} levels": (
            "DiffCollage", {"steps": sizes.slow, "solver": EDM(sizes.slow)},
        ),
    }  # fmt: skip
    found = _drawn(corpus, cases, sizes.wide, sizes.stochastic, sizes)
    return {"rows": Ruler(corpus, sizes, sizes.stochastic).rows(found)}


def _time(corpus: Corpus, sizes: Sizes) -> dict[str, Any]:
    """Methods with so many levels that all take about as long."""
    cases: Cases = {
        f"{method}, {round(share * sizes.steps)} levels": (
            method, {"steps": round(share * sizes.steps)},
        )
        for method, share in EQUAL.items()
    }  # fmt: skip
    found = _drawn(corpus, cases, sizes.wide, sizes.strips, sizes)
    return {"rows": Ruler(corpus, sizes, sizes.strips).rows(found)}


MEASURED: dict[str, Callable[[Corpus, Sizes], dict[str, Any]]] = {
    "gate": _gate, "quality": _quality, "size": _size, "sampler": _sampler, "time": _time,
}  # fmt: skip


def parts_of(side: int) -> dict[str, str]:
    """The parts of the corpora with patches of a side by name, such as `landscape-quality`."""
    names = [name for name, corpus in CORPORA.items() if corpus.side == side]
    return {f"{name}-{part}": part for name in names for part in MEASURED}


PARTS = parts_of(32)


def _between(key: str, form: str) -> str:
    return f"{{{key}[1]:{form}}} ({{{key}[0]:{form}}} to {{{key}[2]:{form}}})"


COLUMNS: dict[str, dict[str, Column]] = {
    "gate": columns(
        "shape n seen:.3f seen_floor:.3f seen_ratio:.2f passed half:.3f fd:.3f floor:.3f "
        "ratio:.2f fine:.2f shift:.3f contrast:.3f step:.3f"
    ),
    "faint": columns("sigma seen_ratio:.2f ratio:.1f"),
    "copies": {
        "n": "{n}",
        "data std": "{data_std:.3f}",
        "drawn, smallest and mean": "{drawn[0]:.3f} {drawn[1]:.3f}",
        "real, smallest and mean": "{real[0]:.3f} {real[1]:.3f}",
    },
    "quality": {
        "method": "{method}",
        "FD+": _between("seen", ".2f"),
        "FD+ to patches": _between("seen_own", ".2f"),
        "FD+ of textures": _between("fd", ".2f"),
        "FD+ of textures to patches": _between("fd_own", ".2f"),
        "kernel distance": _between("kid", ".3f"),
        **columns(
            "precision[1]:.2f recall[1]:.2f seam_ratio[0]:.2f contrast[0]:.2f "
            "autocorrelation[0]:.3f spectrum[0]:.2f long_waves[0]:.2f columns_1[0]:.2f "
            "columns_2[0]:.2f columns_4[0]:.2f columns_8[0]:.2f evaluations seconds:.2f"
        ),
    },
    "size": columns("method wide evaluations critical_path seconds:.2f over_average:.2f"),
    "position": {
        **columns("method from to contrast:.2f step:.2f"),
        "kernel distance": _between("kid", ".3f"),
    },
}
COLUMNS |= dict.fromkeys(("sampler", "time"), COLUMNS["quality"])


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The tables of all parts that were run."""
    return [
        table(f"{name}, {kind}", rows, COLUMNS[part if kind == "rows" else kind])
        for name in result
        for part in [name.partition("-")[2]]
        if part in MEASURED
        for kind, rows in result[name].items()
        if kind != "cpu_seconds"
    ]


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draws a figure of strips for each corpus, and one of costs, into a folder.

    The strips are the first of the first seed, as they were measured.
    """
    from pgmdiff.plotting import Panel, panels
    from pgmdiff.plotting import strips as draw_strips

    path.mkdir(parents=True, exist_ok=True)
    sizes = Sizes(**result["sizes"])
    charts: list[Panel] = []
    size = "size"
    for name, corpus in CORPORA.items():
        if f"{name}-quality" in result:
            rows = {row["method"]: row for row in result[f"{name}-quality"]["rows"]}
            real = crops(corpus, 5 * corpus.side, 1, 1)[0]
            shown = {f"real, seam ratio {rows[REAL]['seam_ratio'][0]:.2f}": real}
            width = sizes.wide * corpus.side
            options: dict[str, Any] = {"steps": sizes.steps, "device": sizes.device}
            ticks: dict[str, range] = {}
            for method in METHODS:
                caption = f"{method}, seam ratio {rows[method]['seam_ratio'][0]:.2f}"
                drawn = strips(corpus, method, width, sizes.strips, 0, **options)
                shown[caption], ticks[caption] = drawn.images[0], seams(corpus, method, width)
            title = f"{corpus.title}: strips of {sizes.wide} patches, from a model of one patch"
            figure = draw_strips(shown, seams=ticks, title=title)
            figure.savefig(path / f"experiment_infinite_{name}.png", dpi=100)
        if f"{name}-size" in result and not charts:
            size = f"size{corpus.side}" if corpus.side > 32 else size
            rows_of_all = result[f"{name}-size"]["rows"]
            for key, label in (
                ("critical_path", "evaluations in a row"), ("evaluations", "evaluations"),
            ):  # fmt: skip
                lines = points(rows_of_all, "method", METHODS, "wide", key)
                charts.append(Panel(lines, "W/H", label, f"Cost: {label}"))
    if charts:
        figure = panels(charts, "Strips of 1 to 32 patches", columns=2)
        figure.savefig(path / f"experiment_infinite_{size}.png", dpi=100)
