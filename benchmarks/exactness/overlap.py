"""Part 3, overlaps: what a rule loses as windows overlap less, and so cost less.

Windows of a line, whose neighbours share `overlap` elements; windows that overlap less are fewer.
The cost is how often an element of the state was seen by a network: elements of all rows of all
evaluations over those of the state, the evidence rule's second passes included.

*Gaussians* (67 elements, windows of 7; KL per variable, exact propagation, Heun): AR(1); AR(2), an
oscillation whose windows must share two elements to be Markov; and a smooth process observed with
noise (Matérn 3/2, length 8, and 1 % white noise), Markov for no overlap. *Two-mode chain* (16
variables, windows of 4; mirrored energy distance, SDE with η = 1): scores are sums over runs.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.exactness.distributions import two_mode_chain
from benchmarks.exactness.gaussians import Case, ar1, gaussian_problem, measured
from benchmarks.exactness.methods import METHODS, Problem
from benchmarks.exactness.modes import Run, Truth, label, measures, summary
from pgmdiff.gaussian import Gaussian
from pgmdiff.graphs import RegionGraph, tiles
from pgmdiff.samplers import SDE
from pgmdiff.testing.oracles import ModeChain

__all__ = ["draw", "lines", "rows"]

LENGTH, WINDOW, OVERLAPS = 67, 7, (1, 2, 3, 4, 5, 6)
LEVELS = (18, 40)
MODES_LENGTH, MODES_WINDOW, MODES_OVERLAPS = 16, 4, (1, 2, 3)
BUDGET, SAMPLES, SEEDS = 20, 500, 8


def rows(*, smoke: bool) -> list[dict[str, Any]]:
    """Measures all overlaps; `smoke` one."""
    gaussians = _gaussians() if not smoke else {"AR(1)": ar1(LENGTH, 0.95)}
    found: list[dict[str, Any]] = []
    for name, q in tqdm(gaussians.items(), desc="overlaps"):
        for overlap in OVERLAPS[:1] if smoke else OVERLAPS:
            found += _gaussian_rows(name, q, overlap, LEVELS[:1] if smoke else LEVELS)
    for overlap in tqdm(MODES_OVERLAPS[:1] if smoke else MODES_OVERLAPS, desc="two modes"):
        found += _mode_rows(overlap, *((4, 20, 1) if smoke else (BUDGET, SAMPLES, SEEDS)))
    return found


def _gaussians() -> dict[str, Gaussian]:
    gap = (torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)).abs().double()
    scaled = 3**0.5 * gap / 8
    matern = (1 + scaled) * torch.exp(-scaled) + 0.01 * torch.eye(LENGTH).double()
    return {"AR(1)": ar1(LENGTH, 0.95), "AR(2)": _oscillation(), "smooth": _centred(matern)}


def _oscillation(damping: float = 0.9, period: float = 10.0) -> Gaussian:
    """x_t = 2 r cos(θ) x_(t-1) - r² x_(t-2) + noise, θ = 2π / period, of unit variance."""
    ar = 2 * damping * torch.cos(torch.tensor(2 * torch.pi / period)).double(), -(damping**2)
    correlations = [1.0, float(ar[0] / (1 - ar[1]))]
    while len(correlations) < LENGTH:
        correlations.append(float(ar[0] * correlations[-1] + ar[1] * correlations[-2]))
    gap = (torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)).abs()
    return _centred(torch.tensor(correlations, dtype=torch.float64)[gap])


def _centred(covariance: Tensor) -> Gaussian:
    return Gaussian(torch.zeros(len(covariance), dtype=torch.float64), covariance)


def _gaussian_rows(
    name: str, q: Gaussian, overlap: int, levels: Sequence[int]
) -> Iterator[dict[str, Any]]:
    case = Case(name, tiles((LENGTH,), WINDOW, overlap), q)
    problem = gaussian_problem(case.graph, q)
    for k in levels:
        for method in METHODS:
            row = measured(case, problem, method, k)
            yield {"data": name, "window": WINDOW, "overlap": overlap} | row


# ---------------------------------------------------------------- the two-mode chain


def _mode_rows(overlap: int, budget: int, samples: int, seeds: int) -> Iterator[dict[str, Any]]:
    law = two_mode_chain(MODES_LENGTH)
    problem = _windows(law.whole, tiles((MODES_LENGTH,), MODES_WINDOW, overlap))
    truth = Truth.of(law, samples, seeds, problem)
    own = {"data": law.name, "window": MODES_WINDOW, "overlap": overlap, "budget": budget}
    for method in METHODS:
        levels = method.levels(budget, SDE(1.0))
        run = Run.of(truth, method, levels)
        found = summary(measures(truth, run.samples))
        yield own | label(truth, method.name) | {"levels": levels} | run.cost | found


def _windows(whole: Any, graph: RegionGraph) -> Problem:
    """Windows of a chain of modes, of any length, are shorter chains."""
    parts = {(n,): ModeChain(whole.modes, whole.table, n) for n in range(1, MODES_WINDOW + 1)}
    covariances = {shape: part.covariance for shape, part in parts.items()}
    return Problem(graph, lambda graph: parts, covariances, whole)


# ---------------------------------------------------------------- what is shown


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as text."""
    names = [method.name for method in METHODS]
    text = [
        "Windows: KL per variable, nats (two-mode chain: energy distance), by overlap",
        f"{'':>26} {'levels':>7} " + " ".join(f"{name:>13}" for name in names),
    ]
    for (data, window, overlap, steps), some in _cases(rows).items():
        case = f"{data}, {overlap} of {window}"
        figures = " ".join(f"{_loss(some[name]):>13.2g}" for name in names)
        text.append(f"{case:>26} {steps:>7} {figures}")
    return [*text, "", *_reached_lines(rows)]


def _cases(rows: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, dict[str, Any]]]:
    cases: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in rows:
        steps = row.get("budget", row["levels"])
        case = row["data"], row["window"], row["overlap"], steps
        cases.setdefault(case, {})[row["method"]] = row
    return cases


def _loss(row: dict[str, Any]) -> float:
    loss: float = row["kl"] if "kl" in row else row["energy"][0]
    return loss


def _reached_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The cheapest run of a rule that is as good as the marginal rule at its best."""
    yield "As good as the marginal rule at its best: overlap, and how often an element was seen"
    for data in dict.fromkeys(row["data"] for row in rows):
        by_rule = {
            rule: [row for row in rows if (row["data"], row["method"]) == (data, rule)]
            for rule in ("marginal", "posterior", "evidence")
        }
        best = min(by_rule["marginal"], key=_loss)
        found = [f"{data:>26}: {_loss(best):.2g} marginal {_place(best)}"]
        for rule in ("posterior", "evidence"):
            enough = [row for row in by_rule[rule] if _loss(row) <= _loss(best)]
            cheapest = min(enough, key=lambda row: row["seen"], default=None)
            found.append(f"{rule} {_place(cheapest) if cheapest else 'never'}")
        yield ", ".join(found)


def _place(row: dict[str, Any]) -> str:
    return f"{row['overlap']} ({row['seen']:.0f}×)"


def draw(rows: list[dict[str, Any]], folder: Path) -> None:
    """Loss against cost, a point an overlap."""
    from pgmdiff.plotting import Panel, panels

    drawn = []
    for data in dict.fromkeys(row["data"] for row in rows):
        some = [row for row in rows if row["data"] == data]
        most = max(row["levels"] for row in some)
        gaussian = "kl" in some[0]
        shown = [row for row in some if row["levels"] == most or not gaussian]
        drawn.append(
            Panel(
                {method.name: _points(shown, method.name) for method in METHODS},
                "times that an element was seen by a network",
                "KL per variable, nats" if gaussian else "energy distance",
                f"{data}: {most} levels of Heun" if gaussian else f"{data}: SDE, η = 1",
                notes={
                    rule: [f"{row['overlap']}" for row in shown if row["method"] == rule]
                    for rule in ("marginal", "posterior")
                },
            )
        )
    figure = panels(
        drawn,
        "Windows of a line, by their overlap (numbers: elements that neighbours share)",
        columns=2,
    )
    figure.savefig(folder / "exactness_overlap.png", dpi=110)


def _points(rows: list[dict[str, Any]], method: str) -> tuple[list[float], list[float]]:
    some = [row for row in rows if row["method"] == method]
    if method in ("concatenation", "exact score"):
        some = some[:1]  # they know no overlap
    return [row["seen"] for row in some], [_loss(row) for row in some]
