r"""Covariances per label or pooled over labels: what composition loses by either.

Variables at ±2 (deviation 0.4) have the signs of an Ising model on a chain or a ring. Every pair of
neighbours has a label of its own, 1 or 0, that tells of its signs with some noise; variables have
the null label. Labels are independent given the signs, so that

    q(u | y) ∝ Π_f q(u_f | y_f) Π_x q(u_x)^(1 - d_x)

on the chain. Models are exact: mixtures, as is the truth, over all signs. Three
closures are compared: the covariance of every region given its own label (*own label*), the mean of
these over labels (*mean over labels*), and the covariance of all data (*all data*), whatever their
label. On the ring the first two are given with the covariances before labels, `prior=`, and all
with the mean before labels.

*Score* is the relative error of the score on noised states of the truth, root mean square over four
levels, after twenty calls at each state. *Energy* is the energy distance of samples, by 20 steps of
the SDE, to exact ones. Both are means over sets of labels, which are drawn from the model, with
standard errors. *Refused*: the sets for which there is no composition.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import networkx as nx
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.exactness.fields import ModeField
from pgmdiff.composition.composing import compose
from pgmdiff.composition.consistent import Consistent
from pgmdiff.composition.joint import Joint
from pgmdiff.composition.posterior import Posterior
from pgmdiff.composition.rules import Rule
from pgmdiff.diagnostics.metrics import energy_distance, mean_and_error
from pgmdiff.errors import GraphError
from pgmdiff.gaussian import Gaussian, GaussianMixture
from pgmdiff.graphs import FactorGraph
from pgmdiff.samplers import SDE, karras, sample
from pgmdiff.scores.adapters import Score

__all__ = ["CLOSURES", "FIELDS", "Labelled", "rows"]

FIELDS = ModeField("chain", nx.path_graph(8)), ModeField("ring", nx.cycle_graph(6))
SURE = torch.tensor([[0.01, 0.1], [0.1, 0.9]], dtype=torch.float64)
"""The probability of the label 1, by the two signs."""
CLOSURES = "own label", "mean over labels", "all data"
RULES: Mapping[str, Callable[..., Rule]] = {"posterior": Posterior, "consistent": Consistent}
SETS, SAMPLES, CALLS = 8, 200, 20
"""Sets of labels, states and samples for each, and calls at a noised state."""
LEVELS = 4.0, 2.0, 1.0, 0.5


@dataclass(frozen=True, eq=False)
class Labelled:
    """A field, and a label for each of its pairs.

    Attributes:
        field: the field.
        labels: 0 or 1 for every pair, int64 `[pairs]`.
    """

    field: ModeField
    labels: Tensor

    @classmethod
    def drawn(cls, field: ModeField, seed: int) -> "Labelled":
        """Labels of the model."""
        stream = torch.Generator().manual_seed(seed)
        up = (field.labels[torch.multinomial(field.weights, 1, generator=stream)[0]] > 0).long()
        i, j = torch.tensor(list(field.network.edges)).T
        return cls(field, torch.bernoulli(SURE[up[i], up[j]], generator=stream).long())

    @cached_property
    def graph(self) -> FactorGraph:
        """Pairs and variables."""
        edges = self.field.network.edges
        scopes = {f"{i}-{j}": (i, j) for i, j in edges}
        return FactorGraph.from_scopes(scopes, dict.fromkeys(range(len(self.field.network)), ()))

    def chances(self, pairs: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Weights of signs `[..., n]`, given labels of pairs `[m, 2]` of the n."""
        up = (pairs > 0).long()
        sure = SURE[up[:, :, 0], up[:, :, 1]]
        weights = weights * torch.where(labels == 1, sure, 1 - sure).prod(dim=1)
        return weights / weights.sum()

    @cached_property
    def whole(self) -> GaussianMixture:
        """The truth, q(u | y)."""
        field, edges = self.field, torch.tensor(list(self.field.network.edges))
        weights = self.chances(field.labels[:, edges], self.labels, field.weights)
        return _mixture(weights, field.labels, field.spread)

    def pair(self, label: int) -> tuple[float, GaussianMixture]:
        """The probability of a label, and the distribution of a pair that has it."""
        q = self.field.marginal(torch.tensor([0, 1]))
        signs = torch.stack([part.mean for part in q.components]).sign()
        sure = SURE[(signs[:, 0] > 0).long(), (signs[:, 1] > 0).long()]
        chance = float(q.weights @ torch.where(torch.tensor(label == 1), sure, 1 - sure))
        weights = self.chances(signs[:, None], torch.tensor([label]), q.weights)
        return chance, _mixture(weights, signs, self.field.spread)

    def joint(self, rule: str, closure: str) -> Joint:
        """The composed score.

        Raises:
            GraphError: the covariances of the closure do not compose.
        """
        single, both = self.field.marginal(torch.tensor(0)), [self.pair(0), self.pair(1)]
        names = self.graph.factors
        scores: dict[Any, Score] = dict.fromkeys(range(len(self.field.network)), single)
        scores |= {f: both[y][1] for f, y in zip(names, self.labels.tolist(), strict=True)}
        before = dict.fromkeys(scores, single.covariance)
        before |= dict.fromkeys(names, self.field.marginal(torch.tensor([0, 1])).covariance)
        given, mean = dict(before), torch.zeros(len(self.field.network)).double()
        for f, y in zip(names, self.labels.tolist(), strict=True):
            if closure == "own label":
                given[f] = both[y][1].covariance
            elif closure == "mean over labels":
                given[f] = sum((p * q.covariance for p, q in both), torch.zeros(()))
        prior = before if closure != "all data" else None
        made = RULES[rule](given, prior=prior, mean=mean)
        return compose(self.graph, scores, rule=made)


def _mixture(weights: Tensor, signs: Tensor, spread: float) -> GaussianMixture:
    noise = spread * torch.eye(signs.shape[1]).double()
    return GaussianMixture(weights, [Gaussian(2 * s, noise) for s in signs])


def measures(case: Labelled, score: Score, seed: int, samples: int) -> dict[str, float]:
    """The error of a score, and the energy distance of its samples."""
    q, errors = case.whole, []
    clean = q.sample(samples, 100 + seed)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)).double()
    for level in LEVELS:
        u, calling = clean + level * noise, score
        if isinstance(score, Joint):
            calling = score.remembering()
            for _ in range(CALLS - 1):
                calling(u, torch.full((samples,), level).double())
        found, exact = calling(u, torch.full((samples,), level).double()), q.score(u, level)
        errors.append(float((found - exact).square().sum() / exact.square().sum()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # wrong covariances hide the data at no level
        drawn = sample(
            score, karras(20, 0.01, 20.0), shape=tuple(clean.shape), mean=q.mean,
            solver=SDE(1.0), generator=seed, dtype=torch.float64,
        )  # fmt: skip
    return {
        "score": (sum(errors) / len(errors)) ** 0.5,
        "energy": energy_distance(drawn, clean),
    }


def rows(*, smoke: bool = False) -> list[dict[str, Any]]:
    """Both rules with every closure, and the exact score, on all fields; `smoke` on the chain."""
    sets, samples = (2, 20) if smoke else (SETS, SAMPLES)
    methods = [*product(RULES, CLOSURES), ("exact score", "none")]
    made = list[dict[str, Any]]()
    for field in FIELDS[:1] if smoke else FIELDS:
        cases = [Labelled.drawn(field, seed) for seed in range(sets)]
        for rule, closure in tqdm(methods, desc=f"labels on a {field.name}"):
            found, refused = list[dict[str, float]](), 0
            for seed, case in enumerate(cases):
                try:
                    score = case.joint(rule, closure) if rule in RULES else case.whole.score
                except GraphError:
                    refused += 1
                else:
                    found.append(measures(case, score, seed, samples))
            row = {"graph": field.name, "method": rule, "closure": closure, "refused": refused}
            made.append(row | {k: mean_and_error([e[k] for e in found]) for k in found[0]})
    return made
