r"""Where single patches go wrong, and what a mixture of Gaussians does in the network's place.

*start*: real crops are noised to a level, and the network denoises them from there. Their distance
from other real crops is what the network adds below that level.

*mixture*: at high noise a patch has few coefficients that can be seen, and the network's errors are
errors about which of them belong together. There, an `Informed` denoiser replaces the Wiener
filter's estimate of the leading coefficients z by that of a mixture fitted to real crops,

    E[z | z + σ ε] = Σ_k p_k [m_k + v_k / (v_k + σ²) (z + σ ε - m_k)],
    p_k ∝ w_k N(z + σ ε; m_k, v_k + σ²)

with variances v_k that are diagonal in the filter's basis. Fitting it takes a minute.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.reports import columns, measured, settings, table
from experiments.corpora import CORPORA, Corpus
from experiments.infinite import FEATURES, apart, looks
from experiments.memory import nearest
from experiments.strips import MAX_BATCH, crops, mean_of
from pgmdiff.baselines import composed
from pgmdiff.graphs import tiles
from pgmdiff.linalg import beside
from pgmdiff.samplers import sample
from pgmdiff.scores.adapters import from_denoiser
from pgmdiff.text import Table
from pgmdiff.training import EDMDenoiser, WienerFilter

__all__ = ["PARTS", "Informed", "Mixture", "run", "tables"]


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        patches, seeds: number of samples of a seed, and of seeds.
        steps: noise levels of a run.
        starts: places in the schedule where real crops are put in.
        crops, leading, components, rounds: of a mixture: the crops it is fitted to, coefficients,
            components and rounds of the EM algorithm.
        above: the lowest level at which the mixture is used.
        few, near: number of crops whose denoising loss is measured, and of samples whose nearest
            real crop is looked for.
    """

    patches: int = 1024
    seeds: int = 3
    steps: int = 20
    starts: tuple[int, ...] = (8, 14, 17, 19)
    crops: int = 50000
    leading: int = 128
    components: int = 1024
    rounds: int = 20
    above: float = 1.8
    few: int = 256
    near: int = 128
    device: str = "cpu"


SMOKE = Sizes(16, 1, 4, (2,), 64, 8, 4, 2)
CHUNK = 8192


@dataclass(frozen=True, eq=False)
class Mixture:
    """Gaussians with diagonal covariances: weights `[K]`, means and variances `[K, M]`."""

    weights: Tensor
    means: Tensor
    variances: Tensor

    @classmethod
    def of(cls, points: Tensor, components: int, rounds: int) -> "Mixture":
        """The mixture of points `[n, M]` that the EM algorithm finds from some of them."""
        variance, stream = points.var(dim=0), torch.Generator().manual_seed(0)
        means = points[torch.randperm(len(points), generator=stream)[:components]]
        weights = torch.full((components,), 1 / components)
        found = cls(weights, means, (0.05 * variance).expand(components, -1))
        for _ in range(rounds):
            count, first, second = torch.zeros(components), 0 * means, 0 * means
            for some in points.split(CHUNK):
                shares = found.log_shares(some).softmax(dim=1)
                count += shares.sum(dim=0)
                first += shares.mT @ some
                second += shares.mT @ some.square()
            total = count.clamp(min=1e-3)[:, None]
            variances = (second / total - (first / total) ** 2).clamp(min=1e-2)
            found = cls((count + 1) / (count + 1).sum(), first / total, variances)
        return found

    def log_shares(self, z: Tensor, variance: Tensor | float = 0.0) -> Tensor:
        """Log p_k of noisy points, up to a constant for each: `[n, K]`."""
        total = self.variances + variance
        squares = z.square() @ (1 / total).mT - 2 * z @ (self.means / total).mT
        rest = (self.means**2 / total + total.log()).sum(dim=1)
        return self.weights.log() - (squares + rest) / 2

    def denoise(self, z: Tensor, sigma: float) -> Tensor:
        """E[z | z + σ ε]."""
        shares = self.log_shares(z, sigma**2).softmax(dim=1)
        gains = self.variances / (self.variances + sigma**2)
        return shares @ (self.means * (1 - gains)) + shares @ gains * z


class Informed(nn.Module):
    """A denoiser that knows a mixture at and above a noise level, for one shape.

    A call has one noise level, as those of samplers do.

    Args:
        denoiser: the denoiser below that level.
        own: its Wiener filter of the shape.
        real: real crops to fit the mixture to.
        sizes: see `Sizes`.
    """

    def __init__(
        self, denoiser: EDMDenoiser, own: WienerFilter, real: Tensor, sizes: Sizes
    ) -> None:
        super().__init__()
        self.denoiser, self.own, self.above = denoiser, own, sizes.above
        self.leading = own.variance.flatten().topk(sizes.leading).indices
        parts = [own.turned(some - own.mean).flatten(1) for some in real.split(CHUNK)]
        points = torch.cat([part[:, self.leading] for part in parts])
        self.mixture = Mixture.of(points, sizes.components, sizes.rounds)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        level = float(sigma[0])
        if level < self.above:
            found: Tensor = self.denoiser(x, sigma)
            return found
        turned = self.own.turned(x - self.own.mean)
        values = (self.own.gain(beside(sigma, x)) * turned).flatten(1)
        seen = turned.flatten(1)[:, self.leading]
        values[:, self.leading] = self.mixture.denoise(seen, level)
        return self.own.turned(values.reshape(x.shape), back=True) + self.own.mean


def run(
    *, smoke: bool = False, device: str = "cpu", parts: list[str] | None = None
) -> dict[str, Any]:
    """Measures the parts, or with `smoke` a little of each."""
    sizes = replace(SMOKE if smoke else Sizes(), device=device)

    def measure(name: str) -> dict[str, Any]:
        corpus, _, part = name.partition("-")
        return MEASURED[part](CORPORA[corpus], sizes)

    about = settings(threads=torch.get_num_threads())
    return {"settings": about, "sizes": asdict(sizes), **measured(parts or PARTS, measure, 4)}


def _start(corpus: Corpus, sizes: Sizes) -> dict[str, Any]:
    """Real crops, noised to a level and denoised by the network from there."""
    levels, score = corpus.levels(sizes.steps), from_denoiser(corpus.denoiser())
    given, stream = crops(corpus, corpus.side, sizes.patches, 7), torch.Generator().manual_seed(3)
    rows = [_row(corpus, given)]
    for start in tqdm(sizes.starts[::-1], desc=f"{corpus.name}, start"):
        noisy = given + levels[start] * torch.randn(given.shape, generator=stream)
        drawn = [
            sample(score, levels[start:], x=some, solver=corpus.solver, generator=number)
            for number, some in enumerate(noisy.split(MAX_BATCH))
        ]
        rows.append({"sigma": levels[start], **_row(corpus, torch.cat(drawn))})
    return {"rows": rows}


def _network(corpus: Corpus, sizes: Sizes) -> dict[str, Any]:
    """Whole samples of the network."""
    return {"rows": _drawn(corpus, corpus.denoiser(), sizes)}


def _mixture(corpus: Corpus, sizes: Sizes) -> dict[str, Any]:
    """Denoising losses without and with a mixture, and whole samples with it."""
    network, real = corpus.denoiser(), crops(corpus, corpus.side, sizes.crops, 4)
    own = network.filters[f"3x{corpus.side}x{corpus.side}"]
    assert isinstance(own, WienerFilter)
    informed = Informed(network, own, real, sizes)
    clean, stream = real[: sizes.few], torch.Generator().manual_seed(3)
    losses: list[dict[str, Any]] = []
    for level in corpus.levels(sizes.steps):
        if level < sizes.above:
            break
        noisy = clean + level * torch.randn(clean.shape, generator=stream)
        linear = network.linear_error(clean.shape[1:], torch.full((1, 1, 1, 1), level))
        row: dict[str, Any] = {"sigma": level}
        for name, model in {"network": network, "mixture": informed}.items():
            denoised = [model(x, torch.full((len(x),), level)) for x in noisy.split(MAX_BATCH)]
            row[name] = ((torch.cat(denoised) - clean).square().mean() / linear).item()
        losses.append(row)
    return {"rows": _drawn(corpus, informed, sizes), "losses": losses}


def _drawn(corpus: Corpus, model: nn.Module, sizes: Sizes) -> list[dict[str, Any]]:
    """Samples of every seed against real crops."""
    shape, score, rows = (3, corpus.side, corpus.side), from_denoiser(model), []
    options: dict[str, Any] = {"batch": sizes.patches, "max_batch": MAX_BATCH}
    options |= {"solver": corpus.solver, "mean": mean_of(corpus.name, corpus.side)}
    for seed in tqdm(range(sizes.seeds), desc=corpus.name):
        levels = corpus.levels(sizes.steps)
        drawn = composed(score, tiles(shape, shape), levels, generator=seed, **options).samples
        row = {"seed": seed, **_row(corpus, drawn)}
        rows.append(row | {"nearest": nearest(drawn[: sizes.near], corpus.states())[1]})
    return rows


def _row(corpus: Corpus, drawn: Tensor) -> dict[str, Any]:
    """Patches against real crops, as in the gate of `infinite`."""
    real, other = (crops(corpus, corpus.side, len(drawn), seed) for seed in (1, 2))
    fd, floor = apart(FEATURES, real, drawn, other)
    return {"fd": fd, "floor": floor, "ratio": fd / floor, **looks(drawn, real)}


MEASURED = {"start": _start, "network": _network, "mixture": _mixture}
PARTS = {
    "tissue-start": "start", "landscape-start": "start", "landscape-network": "network",
    "landscape-mixture": "mixture",
}  # fmt: skip
COLUMNS = {
    "start": columns("sigma:.3f fd:.2f floor:.2f ratio:.2f contrast:.3f step:.3f"),
    **dict.fromkeys(
        ("network", "mixture"),
        columns("seed fd:.2f floor:.2f ratio:.2f contrast:.3f step:.3f nearest:.3f"),
    ),
    "losses": columns("sigma:.2f network:.3f mixture:.3f"),
}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The tables of all parts that were run."""
    return [
        table(f"{name}, {kind}", rows, COLUMNS[PARTS[name] if kind == "rows" else kind])
        for name in result
        if name in PARTS
        for kind, rows in result[name].items()
        if kind != "cpu_seconds"
    ]
