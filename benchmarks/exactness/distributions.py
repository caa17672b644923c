r"""Non-Gaussian distributions on trees: exact samplers, densities, and scores of parts and whole.

A distribution is given by a mixture of Gaussians on every pair of neighbours, with a label for each
of the two, q(u_p, u_c) = Σ_ab w_ab N(m_ab, C_ab). Pairs agree on the variables that they share. The
whole is

    q(u) = Π_f q(u_f) Π_x q(u_x)^(1 - d_x),

Markov to the tree, so it is sampled exactly, child after parent, from q(u_c | u_p), which is a
mixture too. Scores of pairs and variables have closed forms at every noise level, as has log q at
σ = 0.

The score of the noised whole has a closed form only where labels can be read off the variables:
then the labels are Markov themselves, and given them the whole is Gaussian. Here modes are 5
standard deviations from the middle between them, so that a label is mistaken with probability 3e-7.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmarks.problems import Problem
from pgmdiff.gaussian import Gaussian, GaussianMixture
from pgmdiff.graphs import FactorGraph, chain, tree
from pgmdiff.noise import Generator, torch_generator
from pgmdiff.scores.adapters import Score
from pgmdiff.testing.oracles import SPREAD, WITHIN, ModeChain

__all__ = [
    "NAMES",
    "MarkovTree",
    "Pair",
    "curved_chain",
    "parity_star",
    "star_of_categories",
    "three_mode_chain",
    "tree_of_mixtures",
    "two_mode_chain",
]

NAMES = (
    "two_mode_chain", "three_mode_chain", "curved_chain",
    "tree_of_mixtures", "star_of_categories", "parity_star",
)  # fmt: skip
"""Of the functions that make the distributions that are compared."""


@dataclass(frozen=True, eq=False)
class Pair:
    """The distribution of a parent and its child.

    Args:
        table: joint probabilities of their labels, `[A, B]`.
        parent: the parent's distribution given each of its labels, A Gaussians on `[d]` or scalars.
        child: the same for the child, B Gaussians.
        kept: their cross-covariance `[d_parent, d_child]` where the child keeps the parent's label;
            elsewhere, and where None, they are independent given the labels.
    """

    table: Tensor
    parent: Sequence[Gaussian]
    child: Sequence[Gaussian]
    kept: Sequence[Tensor] | None = None

    def given(self, a: int, b: int) -> Gaussian:
        """The pair given its labels."""
        first, second = self.parent[a], self.child[b]
        joint = torch.block_diag(first.covariance, second.covariance)
        if self.kept is not None and a == b:
            d = len(first.covariance)
            joint[:d, d:], joint[d:, :d] = self.kept[a], self.kept[a].T
        return Gaussian(torch.cat([first.mean.reshape(-1), second.mean.reshape(-1)]), joint)

    @cached_property
    def mixture(self) -> GaussianMixture:
        """The pair's own distribution, on `[d_parent + d_child]`."""
        labels = self.table.nonzero().tolist()
        weights = torch.stack([self.table[a, b] for a, b in labels])
        return GaussianMixture(weights, [self.given(a, b) for a, b in labels])

    @property
    def singles(self) -> tuple[GaussianMixture, GaussianMixture]:
        """The distributions of parent and child."""
        weights = self.table.sum(dim=1), self.table.sum(dim=0)
        return GaussianMixture(weights[0], self.parent), GaussianMixture(weights[1], self.child)

    def draw(self, parent: Tensor, generator: torch.Generator) -> Tensor:
        """Children `[n, d_child]` of parents `[n, d_parent]`, from q(u_c | u_p)."""
        d = parent.shape[1]
        known = self.mixture.marginal(torch.arange(d))
        logs = torch.stack([part.log_density(parent) for part in known.components], dim=1)
        chances = (logs + known.weights.log()).softmax(dim=1)
        which = torch.multinomial(chances, 1, generator=generator)[:, 0]
        children = parent.new_empty(len(parent), self.mixture.event_shape[0] - d)
        for k, part in enumerate(self.mixture.components):
            own, joint = parent[which == k], part.covariance
            gain = torch.linalg.solve(joint[:d, :d], joint[:d, d:])
            rest = Gaussian(part.mean[d:], joint[d:, d:] - joint[d:, :d] @ gain)
            drawn = rest.sample(len(own), generator)
            children[which == k] = drawn + (own - part.mean[:d]) @ gain
        return children


@dataclass(frozen=True, eq=False)
class MarkovTree:
    """A distribution that is Markov to a tree of pairs.

    Attributes:
        name: in tables and in the JSON.
        graph: its factors are ordered from the root on, with scopes (parent, child).
        pairs: factor name or model id to the distribution of its pair.
        whole: the score of the whole at every noise level, where it is known.
        mirrored: whether u and -u are equally likely.
    """

    loops: ClassVar[bool] = False

    name: str
    graph: FactorGraph
    pairs: Mapping[Any, Pair]
    whole: Score | None = None
    mirrored: bool = False

    @cached_property
    def models(self) -> dict[Any, GaussianMixture]:
        """Model id to the distribution of its regions, for every pair and every variable."""
        found = {name: pair.mixture for name, pair in self.pairs.items()}
        for factor, scope in self.graph.scopes.items():
            singles = self.pair(factor).singles
            for name, single in zip(scope, singles, strict=True):
                found.setdefault(self.graph.variable_model or name, single)
        return found

    @cached_property
    def problem(self) -> Problem:
        """The exact scores and covariances of all parts, to be composed."""
        scores = {name: model.score for name, model in self.models.items()}
        covariances = {name: model.covariance for name, model in self.models.items()}
        return Problem(self.graph.regions, lambda graph: scores, covariances, self.whole)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Independent draws, `[n, N]`."""
        generator = torch_generator(generator, "MarkovTree.sample")
        first, _ = self.edges[0]
        u = torch.empty(n, self.graph.n_elements, dtype=torch.float64)
        root = self.pair(self.graph.factors[0]).singles[0].sample(n, generator)
        u[:, first] = root.reshape(n, -1)
        for factor, (parent, child) in zip(self.graph.factors, self.edges, strict=True):
            u[:, child] = self.pair(factor).draw(u[:, parent], generator)
        return u

    def log_density(self, u: Tensor) -> Tensor:
        """Log q(u) = Σ_r c_r log q(u_r), `[n]`, in nats."""
        total = torch.zeros(len(u), dtype=torch.float64)
        for group in self.graph.regions.groups:
            for row, name in enumerate(group.names):
                count = int(group.counts[row])
                if count:
                    model = self.models[name if group.model is None else group.model]
                    total += count * model.log_density(u[:, group.indices(row, row + 1)[0]])
        return total

    def modes(self, u: Tensor) -> Tensor:
        """The share of children whose nearest mode is not the likeliest given the parent's: `[n]`.

        In a chain of modes that mostly stay, this is the rate of switches between modes.
        """
        unexpected = []
        for factor, (parent, child) in zip(self.graph.factors, self.edges, strict=True):
            pair = self.pair(factor)
            expected = pair.table.argmax(dim=1)[_nearest(u[:, parent], pair.parent)]
            unexpected.append(_nearest(u[:, child], pair.child) != expected)
        return torch.stack(unexpected, dim=1).double().mean(dim=1)

    @cached_property
    def edges(self) -> list[tuple[Tensor, Tensor]]:
        """The elements of parent and child of every factor."""
        elements = self.graph.regions.elements
        scopes = [self.graph.scopes[factor] for factor in self.graph.factors]
        return [(elements(a).reshape(-1), elements(b).reshape(-1)) for a, b in scopes]

    def pair(self, factor: Any) -> Pair:
        """The distribution of a factor."""
        return self.pairs[self.graph.factor_model or factor]


def _nearest(u: Tensor, modes: Sequence[Gaussian]) -> Tensor:
    return torch.cdist(u, torch.stack([mode.mean.reshape(-1) for mode in modes])).argmin(dim=1)


def _mode_chain(name: str, modes: Sequence[float], table: Tensor, length: int) -> MarkovTree:
    variance = torch.full((1, 1), SPREAD, dtype=torch.float64)
    each = [Gaussian(torch.tensor(m, dtype=torch.float64), variance) for m in modes]
    pair = Pair(table, each, each, [WITHIN * variance] * len(modes))
    graph = chain(length, factor_model="pair", variable_model="single")
    places = torch.tensor(modes, dtype=torch.float64)
    mirrored = bool((places == -places.flip(0)).all() and (table == table.flip(0, 1)).all())
    return MarkovTree(name, graph, {"pair": pair}, ModeChain(places, table, length), mirrored)


def two_mode_chain(length: int = 12) -> MarkovTree:
    """Variables at ±2; neighbours share their mode with probability 0.9."""
    table = torch.tensor([[0.45, 0.05], [0.05, 0.45]], dtype=torch.float64)
    return _mode_chain("two-mode chain", (-2.0, 2.0), table, length)


def three_mode_chain(length: int = 12) -> MarkovTree:
    """Variables at -4, 0 and 4, the outer modes with probability 0.2 and 0.3; only steps of 4."""
    table = torch.tensor([[0.16, 0.04, 0], [0.04, 0.4, 0.06], [0, 0.06, 0.24]], dtype=torch.float64)
    return _mode_chain("three-mode chain", (-4.0, 0.0, 4.0), table, length)


def curved_chain(length: int = 8, n_labels: int = 12) -> MarkovTree:
    """Nearly u' = 2.6 sin(u) + noise: a mixture of blobs along the curve of every transition.

    Labels are points from -3 to 3 whose blobs touch, so that a variable does not show its label;
    the score of the whole is not known.
    """
    points = torch.linspace(-3, 3, n_labels, dtype=torch.float64)
    change = torch.exp(-((points - 2.6 * points.sin()[:, None]) ** 2) / (2 * 0.4**2))
    change = torch.where(change > 1e-3 * change.amax(dim=1, keepdim=True), change, 0)
    change = change / change.sum(dim=1, keepdim=True)
    start = torch.linalg.matrix_power(change, 4096)[0]
    blobs = [Gaussian(m, torch.full((1, 1), 0.25**2, dtype=torch.float64)) for m in points]
    graph = chain(length, factor_model="pair", variable_model="single")
    return MarkovTree("curved chain", graph, {"pair": Pair(start[:, None] * change, blobs, blobs)})


def tree_of_mixtures() -> MarkovTree:
    """A binary tree of 7 variables in the plane, with two modes of unequal weight and shape."""
    long = torch.tensor([[0.3, 0.15], [0.15, 0.12]], dtype=torch.float64)
    wide = torch.tensor([[0.12, -0.05], [-0.05, 0.2]], dtype=torch.float64)
    modes = [
        Gaussian(torch.tensor([-2.0, -1.5], dtype=torch.float64), long),
        Gaussian(torch.tensor([2.0, 1.5], dtype=torch.float64), wide),
    ]
    table = torch.tensor([[0.6, 0.05], [0.05, 0.3]], dtype=torch.float64)
    pair = Pair(table, modes, modes, [0.8 * long, 0.8 * wide])
    graph = tree(2, 2, (2,), factor_model="pair", variable_model="single")
    return _with_whole(MarkovTree("tree of mixtures", graph, {"pair": pair}))


CORNERS = torch.tensor(list(product((-1.0, 1.0), repeat=3)), dtype=torch.float64)
"""Of a cube, `[8, 3]`."""


def star_of_categories() -> MarkovTree:
    """A centre at the 8 corners of a cube; leaves at ±2 copy its coordinates and their majority."""
    return _star("star of categories", [*CORNERS.T, CORNERS.sum(dim=1).sign()])


def parity_star() -> MarkovTree:
    """The same with leaves that copy products of coordinates: dependent, but uncorrelated.

    All covariances are blocks of one multiple of I, so posterior composition equals the marginal
    rule.
    """
    products = [CORNERS[:, [0, 1]], CORNERS[:, [1, 2]], CORNERS[:, [0, 2]], CORNERS]
    return _star("parity star", [some.prod(dim=1) for some in products])


def _star(name: str, codes: Sequence[Tensor], flipped: float = 0.1) -> MarkovTree:
    """Leaves at 2 · code of the corner, with the other sign with probability `flipped`."""
    eye = SPREAD * torch.eye(3, dtype=torch.float64)
    centre = [Gaussian(2 * corner, eye) for corner in CORNERS]
    leaf = [Gaussian(torch.tensor(m, dtype=torch.float64), eye[:1, :1]) for m in (-2.0, 2.0)]
    noisy = torch.tensor([[1 - flipped, flipped], [flipped, 1 - flipped]], dtype=torch.float64) / 8
    pairs = {f"f{i}": Pair(noisy[(code > 0).long()], centre, leaf) for i, code in enumerate(codes)}
    scopes = {factor: ("centre", f"leaf {factor[1:]}") for factor in pairs}
    shapes = {"centre": (3,), **{leaf: () for _, leaf in scopes.values()}}
    return _with_whole(MarkovTree(name, FactorGraph.from_scopes(scopes, shapes), pairs))


def _with_whole(q: MarkovTree) -> MarkovTree:
    """The distribution with the score of its whole: one Gaussian per choice of all labels."""
    scopes = [q.graph.scopes[factor] for factor in q.graph.factors]
    sizes = {scopes[0][0]: len(q.pair(q.graph.factors[0]).parent)}
    for factor, (_, child) in zip(q.graph.factors, scopes, strict=True):
        sizes[child] = len(q.pair(factor).child)
    choices = product(*map(range, sizes.values()))
    parts = [_given_labels(q, dict(zip(sizes, labels, strict=True))) for labels in choices]
    weights = torch.tensor([weight for weight, _ in parts], dtype=torch.float64)
    return replace(q, whole=GaussianMixture(weights, [part for _, part in parts]).score)


def _given_labels(q: MarkovTree, labels: Mapping[Any, int]) -> tuple[float, Gaussian]:
    """The probability of all labels, and the whole given them, child after parent."""
    mean = torch.zeros(q.graph.n_elements, dtype=torch.float64)
    covariance = torch.diag(mean)
    weight = 1.0
    for factor, (p, c) in zip(q.graph.factors, q.edges, strict=True):
        a, b = (labels[name] for name in q.graph.scopes[factor])
        pair, d = q.pair(factor), len(p)
        given = pair.given(a, b)
        if weight == 1.0:
            weight = pair.table[a].sum().item()
            mean[p], covariance[p[:, None], p] = given.mean[:d], given.covariance[:d, :d]
        weight *= (pair.table[a, b] / pair.table[a].sum()).item()
        gain = torch.linalg.solve(given.covariance[:d, :d], given.covariance[:d, d:])
        mean[c], covariance[c] = given.mean[d:], gain.T @ covariance[p]
        covariance[:, c] = covariance[c].T
        covariance[c[:, None], c] = given.covariance[d:, d:]
    return weight, Gaussian(mean, covariance)
