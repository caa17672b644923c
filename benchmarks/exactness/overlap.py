"""Part 3, overlaps: the loss of every rule as windows overlap less, and so cost less.

The state is a line cut into windows whose neighbours share `overlap` elements; fewer windows are
needed where they overlap less. The cost is the number of times that an element of the state was
seen by a network: elements of all rows of all evaluations over those of the state, the evidence
rule's second passes included.

*Gaussians* (67 elements, windows of 7; KL per variable, exact propagation, Heun): AR(1); AR(2), an
oscillation whose windows must share two elements to be Markov; and a smooth process observed with
noise (Matérn 3/2, length 8, and 1 % white noise), which is Markov for no overlap. *Two-mode chain*
(16 variables, windows of 4; mirrored energy distance, SDE with η = 1): scores are sums over runs.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.exactness.distributions import two_mode_chain
from benchmarks.exactness.gaussians import Case
from benchmarks.exactness.methods import METHODS
from benchmarks.exactness.modes import Trial
from benchmarks.problems import Problem
from benchmarks.reports import Column, Row, columns, points, spread, table
from pgmdiff.gaussian import Gaussian, ar1
from pgmdiff.graphs import tiles
from pgmdiff.samplers import SDE
from pgmdiff.testing.oracles import ModeChain
from pgmdiff.text import Table

__all__ = ["draw", "rows", "tables"]

LENGTH, WINDOW, OVERLAPS = 67, 7, (1, 2, 3, 4, 5, 6)
LEVELS = (18, 40)
MODES_LENGTH, MODES_WINDOW, MODES_OVERLAPS = 16, 4, (1, 2, 3)
BUDGET, SAMPLES, SEEDS = 20, 500, 8


def rows(*, smoke: bool) -> list[dict[str, Any]]:
    """Measures all overlaps, or with `smoke` one."""
    found: list[dict[str, Any]] = []
    for name, q in tqdm(list(_gaussians())[: 1 if smoke else None], desc="overlaps"):
        for overlap in OVERLAPS[:1] if smoke else OVERLAPS:
            case = Case(name, tiles((LENGTH,), WINDOW, overlap), q)
            own = {"data": name, "window": WINDOW, "overlap": overlap}
            for levels in LEVELS[:1] if smoke else LEVELS:
                found += [{**own, **case.measured(method, levels)} for method in METHODS]

    # windows of a chain of modes are shorter chains of modes
    q, n = two_mode_chain(MODES_LENGTH), MODES_WINDOW
    whole: Any = q.whole
    parts = {(k,): ModeChain(whole.modes, whole.table, k) for k in range(1, n + 1)}
    covariances = {shape: part.covariance for shape, part in parts.items()}
    budget, samples, seeds = (4, 20, 1) if smoke else (BUDGET, SAMPLES, SEEDS)
    for overlap in tqdm(MODES_OVERLAPS[:1] if smoke else MODES_OVERLAPS, desc="two modes"):
        graph = tiles((MODES_LENGTH,), n, overlap)
        trial = Trial(q, Problem(graph, lambda graph: parts, covariances, whole), samples, seeds)
        own = {"data": q.name, "window": n, "overlap": overlap, "budget": budget}
        for method in METHODS:
            levels = method.levels(budget, SDE(1.0))
            drawn, cost = trial.drawn(method, levels, SDE(1.0))
            row = trial.row(method.name, trial.measures(drawn), {"levels": levels, **cost})
            found.append({**own, **row})
    return found


def _gaussians() -> Iterator[tuple[str, Gaussian]]:
    yield "AR(1)", ar1(LENGTH, 0.95)

    # of unit variance: x_t = 2 r cos(θ) x_(t-1) - r² x_(t-2) + noise, r = 0.9, θ = 2π / 10
    a, b = 2 * 0.9 * torch.cos(torch.tensor(2 * torch.pi / 10)).double(), -(0.9**2)
    correlations = [1.0, float(a / (1 - b))]
    while len(correlations) < LENGTH:
        correlations.append(float(a * correlations[-1] + b * correlations[-2]))
    gap = (torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)).abs()
    mean = torch.zeros(LENGTH, dtype=torch.float64)
    yield "AR(2)", Gaussian(mean, torch.tensor(correlations, dtype=torch.float64)[gap])

    scaled = 3**0.5 * gap.double() / 8
    matern = (1 + scaled) * torch.exp(-scaled)
    yield "smooth", Gaussian(mean, matern + 0.01 * torch.eye(LENGTH).double())


def tables(rows: Sequence[Row]) -> list[Table]:
    """The losses by overlap, and the cheapest runs as good as the marginal rule's best."""
    index: dict[str, Column] = {
        "": "{data}, {overlap} of {window}",
        "levels": lambda row: str(row.get("budget", row["levels"])),
    }
    title = "Windows: KL per variable, nats (two-mode chain: energy distance), by overlap"
    reached = []
    for data in dict.fromkeys(row["data"] for row in rows):
        of_data = [row for row in rows if row["data"] == data]
        best = min((row for row in of_data if row["method"] == "marginal"), key=_loss)
        line = {"data": data, "loss": f"{_loss(best):.2g}", "marginal": _place(best)}
        for rule in ("posterior", "evidence"):
            enough = [r for r in of_data if r["method"] == rule and _loss(r) <= _loss(best)]
            line[rule] = _place(min(enough, key=lambda row: row["seen"])) if enough else "never"
        reached.append(line)
    return [
        spread(title, rows, index, "method", lambda row: f"{_loss(row):.2g}"),
        table(
            "As good as the marginal rule at its best: overlap, and how often an element was seen",
            reached,
            columns("data loss marginal posterior evidence"),
        ),
    ]


def _loss(row: Row) -> float:
    loss: float = row["kl"] if "kl" in row else row["energy"][0]
    return loss


def _place(row: Row) -> str:
    return f"{row['overlap']} ({row['seen']:.0f}×)"


def draw(rows: Sequence[Row], folder: Path) -> None:
    """Loss against cost, with one point per overlap: `exactness_overlap.png`."""
    from pgmdiff.plotting import Panel, panels

    drawn = []
    for data in dict.fromkeys(row["data"] for row in rows):
        some = [{**row, "loss": _loss(row)} for row in rows if row["data"] == data]
        most, gaussian = max(row["levels"] for row in some), "kl" in some[0]
        shown = [row for row in some if row["levels"] == most or not gaussian]
        curves = points(shown, "method", [method.name for method in METHODS], "seen", "loss")
        for name in ("concatenation", "exact score"):  # the overlap changes nothing for them
            curves[name] = curves[name][0][:1], curves[name][1][:1]
        notes = {
            rule: [f"{row['overlap']}" for row in shown if row["method"] == rule]
            for rule in ("marginal", "posterior")
        }
        drawn.append(
            Panel(
                curves,
                "times that an element was seen by a network",
                "KL per variable, nats" if gaussian else "energy distance",
                f"{data}: {most} levels of Heun" if gaussian else f"{data}: SDE, η = 1",
                notes=notes,
            )
        )
    title = "Windows of a line, by their overlap (numbers: elements that neighbours share)"
    panels(drawn, title, columns=2).savefig(folder / "exactness_overlap.png", dpi=110)
