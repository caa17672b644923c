"""Compares pgmdiff.graphs with exact integer oracles on very many small random graphs.

    python -m scripts.fuzz [--graphs N] [--seed S] [--processes P] [--out JSON] [--no-progress]

Graph k is drawn from child k of the seed, whatever the number of processes. A failure is made as
small as it goes, and printed with its seed, number and law; then the exit code is 1.
"""

import argparse
import json
import platform
import re
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cached_property, partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from pgmdiff import GraphError, __version__
from pgmdiff.graphs import (
    FactorGraph,
    RegionGraph,
    Report,
    cluster_variation,
    fingerprint,
    from_json,
    is_alpha_acyclic,
    is_berge_acyclic,
    junction_tree,
    tiles,
    to_json,
)
from pgmdiff.graphs.acyclicity import is_junction_tree
from pgmdiff.linalg import Shape
from tests.oracles import hypergraphs as oracle

MAX_VARIABLES = 8
MAX_SCOPES = 8
LONGEST_AXIS = (0, 14, 7, 4)
"""By the number of axes: brute force walks every element of every region."""
MANY_WINDOWS = 12
"""Windows beyond which tiles are not compared with the cluster variation of their elements."""
TILES_EVERY = 10
SELDOM = 20
"""Laws that take long are checked on every 20th graph."""
CHUNK = 100

Name = Hashable
Checks = Iterator[tuple[object, object]]
"""Pairs of what the library and what the oracle says."""

SHAPES: tuple[Shape, ...] = ((), (1,), (2,), (3,), (2, 2), (1, 2, 2))
ROWS: tuple[Shape, ...] = ((2, 1), (2, 2), (2, 3))
"""Shapes that can be joined along their last axis."""


# ---------------------------------------------------------------- random cases


@dataclass(frozen=True)
class Hypergraph:
    """Scopes over variables with shapes, in declaration order, and what the library makes of it."""

    shapes: dict[Name, Shape]
    scopes: dict[Name, tuple[Name, ...]]
    axis: int | None = None

    @cached_property
    def number(self) -> dict[Name, int]:
        return {name: v for v, name in enumerate(self.shapes)}

    @cached_property
    def masks(self) -> list[int]:
        return [self.mask(scope) for scope in self.scopes.values()]

    @cached_property
    def pieces(self) -> list[int]:
        """Scopes and isolated variables."""
        return oracle.with_isolated(self.masks, len(self.shapes))

    @cached_property
    def alpha(self) -> bool:
        return oracle.is_alpha_acyclic(self.pieces)

    @cached_property
    def kikuchi_counts(self) -> dict[int, int]:
        return oracle.inclusion_exclusion(self.pieces)

    @cached_property
    def maximal(self) -> list[int]:
        return oracle.maximal(self.pieces)

    @cached_property
    def bethe(self) -> FactorGraph:
        return FactorGraph.from_scopes(self.scopes, self.shapes, axis=self.axis)

    @cached_property
    def kikuchi(self) -> RegionGraph:
        return cluster_variation(self.bethe, absorb=len(self.maximal) < len(self.pieces))

    @cached_property
    def tree(self) -> RegionGraph:
        """From scopes alone: names do not matter to it. Triangulated only if need be."""
        most = None if self.alpha else len(self.shapes)
        return junction_tree(list(self.scopes.values()), self.shapes, max_clique=most)

    @cached_property
    def bethe_report(self) -> Report:
        return self.bethe.validate()

    @cached_property
    def kikuchi_report(self) -> Report:
        return self.kikuchi.validate()

    @cached_property
    def cliques(self) -> list[int]:
        return [mask for mask, count in self.counts(self.tree).items() if count > 0]

    def mask(self, names: Iterable[Name]) -> int:
        return oracle.mask_of(self.number[name] for name in names)

    def counts(self, graph: RegionGraph) -> dict[int, int]:
        """Of a graph whose regions are named by their variables."""
        named = graph.counting_numbers().items()
        return {self.mask(members(region)): count for region, count in named}

    def elements(self, names: Iterable[Name]) -> list[int]:
        numbers = [self.number[name] for name in names]
        return oracle.layout(numbers, list(self.shapes.values()), self.axis)

    def smaller(self) -> Iterator["Hypergraph"]:
        """The graph without one scope, without one variable, with one block a scalar."""
        for f in self.scopes:
            yield replace(self, scopes={g: s for g, s in self.scopes.items() if g != f})
        for x in self.shapes:
            left = {f: tuple(v for v in scope if v != x) for f, scope in self.scopes.items()}
            shapes = {v: shape for v, shape in self.shapes.items() if v != x}
            yield replace(self, shapes=shapes, scopes={f: s for f, s in left.items() if s})
        for x, shape in self.shapes.items():
            if shape and self.axis is None:
                yield replace(self, shapes={**self.shapes, x: ()})


@dataclass(frozen=True)
class Tiling:
    """Settings of windows of a tensor, and what the library makes of them."""

    shape: Shape
    window: Shape
    overlap: Shape
    periodic: tuple[bool, ...]

    @cached_property
    def axes(self) -> list[tuple[int, int, int, bool]]:
        return list(zip(self.shape, self.window, self.overlap, self.periodic, strict=True))

    @cached_property
    def graph(self) -> RegionGraph:
        return tiles(self.shape, self.window, self.overlap, self.periodic, remainder="shift")

    @cached_property
    def names(self) -> dict[Name, tuple[oracle.Span, ...]]:
        return {name: oracle.parsed(str(name)) for name in self.graph.names}

    @cached_property
    def counts(self) -> dict[tuple[oracle.Span, ...], int]:
        return oracle.tile_counts([oracle.axis_counts(*axis) for axis in self.axes])

    @cached_property
    def elements(self) -> dict[tuple[oracle.Span, ...], list[int]]:
        return {box: oracle.box_elements(box, self.shape) for box in self.counts}

    @cached_property
    def windows(self) -> dict[tuple[oracle.Span, ...], list[int]]:
        return {
            box: elements
            for box, elements in self.elements.items()
            if tuple(length for _, length in box) == self.window
        }

    @cached_property
    def small(self) -> bool:
        return len(self.windows) <= MANY_WINDOWS

    @cached_property
    def merged(self) -> dict[int, int]:
        counts: Counter[int] = Counter()
        for box, elements in self.elements.items():
            counts[oracle.mask_of(elements)] += self.counts[box]
        return counts

    @cached_property
    def is_tree(self) -> bool:
        outer = [oracle.mask_of(elements) for elements in self.windows.values()]
        return oracle.is_junction_tree(outer, self.merged)

    def smaller(self) -> Iterator["Tiling"]:
        """One axis less, or one number of one axis less."""
        for a in range(len(self.axes)):
            if len(self.axes) > 1:
                yield Tiling.of(self.axes[:a] + self.axes[a + 1 :])
            size, window, overlap, periodic = self.axes[a]
            for axis in (
                (size - 1, window, overlap, periodic),
                (size - 1, window - 1, overlap, periodic),
                (size, window - 1, overlap, periodic),
                (size, window, overlap - 1, periodic),
                (size, window, overlap, False),
            ):
                if axis != self.axes[a] and axis[0] >= axis[1] > axis[2] >= 0:
                    yield Tiling.of([*self.axes[:a], axis, *self.axes[a + 1 :]])

    @classmethod
    def of(cls, axes: list[tuple[int, int, int, bool]]) -> "Tiling":
        return cls(*map(tuple, zip(*axes, strict=True)))


Case = Hypergraph | Tiling


def random_hypergraph(rng: Random) -> Hypergraph:
    """Some grow as trees of overlaps; all may have duplicates, subsets, isolated variables."""
    most = max(rng.randint(0, MAX_VARIABLES) for _ in range(3))
    names = rng.sample("abcdefghijkl", most)
    arity, grown = rng.choice((1, 2, 2, 3, 3, 4, 4, 5)), rng.random() < 0.2
    echo = rng.choice((0, 0, 0, 0.3))
    scopes: list[tuple[str, ...]] = []
    for _ in range(max(rng.randint(0, MAX_SCOPES), rng.randint(0, 4)) if names else 0):
        if scopes and rng.random() < echo:
            scope = part(rng, rng.choice(scopes))
        elif grown:
            scope = grow(rng, names, scopes, arity)
        else:
            scope = rng.sample(names, min(rng.randint(arity // 2 + 1, arity), len(names)))
        scopes.append(tuple(rng.sample(scope, len(scope))))
    factors = rng.sample(range(2 * MAX_SCOPES), len(scopes))
    axis = -1 if rng.random() < 0.2 else None
    shapes: dict[Name, Shape] = {
        name: rng.choice(SHAPES if axis is None else ROWS) for name in names
    }
    named: dict[Name, tuple[Name, ...]] = {
        f"f{f}": scope for f, scope in zip(factors, scopes, strict=True)
    }
    return Hypergraph(shapes, named, axis)


def part(rng: Random, scope: tuple[str, ...]) -> list[str]:
    return rng.sample(scope, rng.randint(1, len(scope)))


def grow(rng: Random, names: list[str], scopes: list[tuple[str, ...]], arity: int) -> list[str]:
    """New variables joined to a part of one scope: running intersection by construction."""
    unseen = [name for name in names if all(name not in scope for scope in scopes)]
    new = unseen[: rng.randint(1, arity)]
    joined = bool(scopes) and (not new or rng.random() < 0.8)
    return new + (part(rng, rng.choice(scopes))[:arity] if joined else [])


def random_tiling(rng: Random) -> Tiling:
    n_axes = rng.randint(1, 3)
    axes = []
    for _ in range(n_axes):
        size = rng.randint(1, LONGEST_AXIS[n_axes])
        window = rng.randint(1, size)
        axes.append((size, window, rng.randrange(window), rng.random() < 0.4))
    return Tiling.of(axes)


def random_case(draw: Callable[[Random], Case], seed: int, number: int, kind: int) -> Case:
    """Case `number` of a kind: of grandchild (number, kind) of the seed."""
    child = np.random.SeedSequence(seed, spawn_key=(number, kind))
    return draw(Random(int.from_bytes(child.generate_state(4).tobytes(), "little")))


# ---------------------------------------------------------------- laws of hypergraphs


def bethe_counts(case: Hypergraph) -> Checks:
    degrees = oracle.degrees(case.masks, len(case.shapes))
    variables = {x: 1 - d for x, d in zip(case.shapes, degrees, strict=True)}
    expected = dict.fromkeys(case.scopes, 1) | variables
    yield case.bethe.counting_numbers(), expected
    yield case.bethe.regions.counting_numbers(), expected


def bethe_elements(case: Hypergraph) -> Checks:
    regions = case.bethe.regions
    for names in (case.scopes, {x: (x,) for x in case.shapes}):
        for node, scope in names.items():
            yield flat(regions, node), case.elements(scope)


def bethe_sums(case: Hypergraph) -> Checks:
    return counted_once(case.bethe.regions)


def bethe_verdicts(case: Hypergraph) -> Checks:
    counts = oracle.merged_bethe(case.masks, len(case.shapes))
    expected = (
        True,
        oracle.is_berge_acyclic(case.masks),
        case.alpha,
        case.alpha and counts == case.kikuchi_counts,
    )
    yield verdicts(case.bethe_report), expected


def berge_acyclicity(case: Hypergraph) -> Checks:
    yield case.bethe_report.berge_acyclic, oracle.is_berge_acyclic(case.masks)


def alpha_acyclicity(case: Hypergraph) -> Checks:
    yield case.kikuchi_report.alpha_acyclic, case.alpha
    yield case.bethe_report.alpha_acyclic, case.alpha


def shortcuts(case: Hypergraph) -> Checks:
    """What `validate` does not ask of forests of distinct factors, asked of all."""
    yield is_berge_acyclic(case.bethe), case.bethe_report.berge_acyclic
    yield is_alpha_acyclic(case.bethe.regions), case.alpha
    yield is_junction_tree(case.bethe.regions), case.bethe_report.junction_tree


def kikuchi_counts(case: Hypergraph) -> Checks:
    yield case.counts(case.kikuchi), case.kikuchi_counts


def kikuchi_outer(case: Hypergraph) -> Checks:
    outer = [row for group in case.kikuchi.groups for row in group.outer.tolist()]
    regions = [case.mask(members(region)) for region in case.kikuchi.names]
    found = {region for region, is_outer in zip(regions, outer, strict=True) if is_outer}
    yield found, set(case.maximal)


def not_absorbed(case: Hypergraph) -> Checks:
    """Asked not to absorb duplicates and subsets, it refuses them."""
    if len(case.maximal) < len(case.pieces):
        yield refusal(lambda: cluster_variation(case.bethe, absorb=False)) is None, False


def kikuchi_elements(case: Hypergraph) -> Checks:
    for region in case.kikuchi.names:
        declared = sorted(members(region), key=case.number.__getitem__)
        yield flat(case.kikuchi, region), case.elements(declared)


def kikuchi_sums(case: Hypergraph) -> Checks:
    return counted_once(case.kikuchi)


def kikuchi_verdicts(case: Hypergraph) -> Checks:
    yield verdicts(case.kikuchi_report), (True, None, case.alpha, case.alpha)


def acyclic_tree(case: Hypergraph) -> Checks:
    if case.alpha:
        yield case.counts(case.tree), case.kikuchi_counts


def triangulated_tree(case: Hypergraph) -> Checks:
    if not case.alpha:
        yield oracle.is_alpha_acyclic(case.cliques), True
        outside = [m for m in case.masks if not any(m & clique == m for clique in case.cliques)]
        yield outside, []
        yield case.counts(case.tree), oracle.inclusion_exclusion(case.cliques)


def announced_clique(case: Hypergraph) -> Checks:
    """The refusal to triangulate names the size that it would take, and that size suffices."""
    if not case.alpha:
        yield needed_clique(case), max(mask.bit_count() for mask in case.cliques)


def needed_clique(case: Hypergraph) -> int | None:
    found = re.search(r"Pass max_clique=(\d+)", str(refusal(lambda: junction_tree(case.bethe))))
    return int(found[1]) if found else None


def tree_total(case: Hypergraph) -> Checks:
    yield sum(case.counts(case.tree).values()), oracle.n_components(case.pieces)


def tree_sums(case: Hypergraph) -> Checks:
    return counted_once(case.tree)


def tree_verdicts(case: Hypergraph) -> Checks:
    yield verdicts(case.tree.validate()), (True, None, True, True)


def wrong_count(case: Hypergraph) -> Checks:
    """One count of the cluster variation, over a denominator, is raised by the smallest step."""
    regions = {name: case.kikuchi.elements(name) for name in case.kikuchi.names}
    if regions:
        counts = {name: 2 * count for name, count in case.kikuchi.counting_numbers().items()}
        wrong = list(regions)[len(regions) // 2]
        raised = {**counts, wrong: counts[wrong] + 1}
        n = case.bethe.n_elements
        built = partial(RegionGraph.from_regions, regions, event_shape=(n,), denominator=2)
        yield verdicts(built(counts).validate()), (True, None, case.alpha, case.alpha)
        report = built(raised).validate()
        yield verdicts(report), (False, None, case.alpha, False)
        yield report.unbalanced.tolist(), sorted(regions[wrong].reshape(-1).tolist())


def uncovered_element(case: Hypergraph) -> Checks:
    """The state has one element more than the regions cover."""
    regions = {name: case.kikuchi.elements(name) for name in case.kikuchi.names}
    counts, n = case.kikuchi.counting_numbers(), case.bethe.n_elements
    report = RegionGraph.from_regions(regions, counts, event_shape=(n + 1,)).validate()
    yield (report.valid, report.alpha_acyclic), (False, case.alpha)
    yield (report.uncovered.tolist(), report.unbalanced.tolist()), ([n], [n])


def drawn_and_back(case: Hypergraph) -> Checks:
    again = FactorGraph.from_networkx(case.bethe.to_networkx())
    yield fingerprint(again), fingerprint(case.bethe)


def hypergraph_json(case: Hypergraph) -> Checks:
    for graph in (case.bethe, case.bethe.regions, case.kikuchi, case.tree):
        yield fingerprint(from_json(to_json(graph))), fingerprint(graph)


# ---------------------------------------------------------------- laws of tiles


def tile_counts(case: Tiling) -> Checks:
    named = case.graph.counting_numbers()
    yield {case.names[name]: count for name, count in named.items()}, case.counts
    yield len(named), case.graph.n_regions


def tile_elements(case: Tiling) -> Checks:
    for name, box in case.names.items():
        yield flat(case.graph, name), case.elements[box]


def tile_sums(case: Tiling) -> Checks:
    return counted_once(case.graph)


def tile_coverage(case: Tiling) -> Checks:
    once = ((elements, 1) for elements in case.windows.values())
    yield case.graph.coverage().tolist(), oracle.element_sums(once, case.graph.n_elements)


def tile_kikuchi(case: Tiling) -> Checks:
    """On open axes, against the oracle and against the cluster variation of the windows."""
    if case.small and not any(case.periodic):
        windows = list(case.windows.values())
        yield case.merged, oracle.inclusion_exclusion(map(oracle.mask_of, windows))
        kikuchi = cluster_variation(windows).counting_numbers()
        found = {oracle.mask_of(map(int, members(r))): c for r, c in kikuchi.items()}
        yield found, case.merged


def tile_verdicts(case: Tiling) -> Checks:
    report = case.graph.validate()
    yield report.valid, True
    if case.small:
        yield report.junction_tree, case.is_tree
        yield is_junction_tree(case.graph), case.is_tree
        windows = list(map(oracle.mask_of, case.windows.values()))
        yield report.alpha_acyclic, oracle.is_alpha_acyclic(windows)


def tile_json(case: Tiling) -> Checks:
    yield fingerprint(from_json(to_json(case.graph))), fingerprint(case.graph)


# ---------------------------------------------------------------- what laws share


def flat(graph: RegionGraph, name: Name) -> list[int]:
    elements: list[int] = graph.elements(name).reshape(-1).tolist()
    return elements


def refusal(build: Callable[[], RegionGraph]) -> GraphError | None:
    try:
        build()
    except GraphError as error:
        return error
    return None


def members(region: Name) -> frozenset[Any]:
    """The variables of a region that is named by them."""
    assert isinstance(region, frozenset)
    return region


def counted_once(graph: RegionGraph) -> Checks:
    counts = graph.counting_numbers().items()
    sums = oracle.element_sums(((flat(graph, r), c) for r, c in counts), graph.n_elements)
    yield sums, [1] * graph.n_elements
    yield graph.element_sums().tolist(), sums


def verdicts(report: Report) -> tuple[object, ...]:
    return report.valid, report.berge_acyclic, report.alpha_acyclic, report.junction_tree


@dataclass(frozen=True)
class Law:
    name: str
    checks: Callable[..., Checks]
    every: int = 1


HYPERGRAPH_LAWS = (
    Law("Bethe: c_f = 1, c_x = 1 - d_x", bethe_counts),
    Law("Bethe: elements of every node", bethe_elements),
    Law("Bethe: every element counted once", bethe_sums),
    Law("Bethe: verdicts of validate", bethe_verdicts),
    Law("Berge-acyclic ⇔ union-find", berge_acyclicity),
    Law("α-acyclic ⇔ GYO reduction", alpha_acyclicity),
    Law("validate's shortcuts", shortcuts, SELDOM),
    Law("cluster variation ≡ inclusion-exclusion", kikuchi_counts),
    Law("cluster variation: outer regions ≡ maximal scopes", kikuchi_outer),
    Law("cluster variation: duplicates and subsets refused on request", not_absorbed),
    Law("cluster variation: elements of every region", kikuchi_elements),
    Law("cluster variation: every element counted once", kikuchi_sums),
    Law("cluster variation: verdicts of validate", kikuchi_verdicts),
    Law("α-acyclic: junction tree ≡ cluster variation", acyclic_tree),
    Law("triangulated: running intersection, scopes inside cliques", triangulated_tree),
    Law("triangulated: announced largest clique", announced_clique),
    Law("junction tree: Σ c = connected components", tree_total),
    Law("junction tree: every element counted once", tree_sums),
    Law("junction tree: verdicts of validate", tree_verdicts, SELDOM),
    Law("a wrong count is found where it is", wrong_count, SELDOM),
    Law("an uncovered element is found", uncovered_element, SELDOM),
    Law("networkx round trip keeps the fingerprint", drawn_and_back, SELDOM),
    Law("JSON round trip keeps fingerprints", hypergraph_json, SELDOM),
)

TILE_LAWS = (
    Law("tiles: counts ≡ product rule", tile_counts),
    Law("tiles: elements of every region", tile_elements),
    Law("tiles: every element counted once", tile_sums),
    Law("tiles: coverage", tile_coverage),
    Law("tiles: small and open ≡ cluster variation", tile_kikuchi),
    Law("tiles: verdicts of validate", tile_verdicts),
    Law("tiles: JSON round trip keeps the fingerprint", tile_json, SELDOM),
)

LAWS = (*HYPERGRAPH_LAWS, *TILE_LAWS)


# ---------------------------------------------------------------- running


@dataclass(frozen=True)
class Failure:
    """A broken law, and the smallest case found that breaks it."""

    seed: int
    number: int
    law: str
    case: str
    minimal: str
    why: str

    def __str__(self) -> str:
        return (
            f"FAILED: {self.law}\n  seed {self.seed}, graph {self.number}: {self.case}\n"
            f"  minimal: {self.minimal}\n  {self.why}"
        )


def tried(law: Law, case: Case) -> tuple[bool, str | None]:
    """Whether a law applies to a case, and what is wrong if it is broken."""
    applies = False
    try:
        for got, expected in law.checks(case):
            applies = True
            if got != expected:
                return True, f"got {got!r}, expected {expected!r}"
    except Exception as error:
        return True, f"raised {type(error).__name__}: {error}"
    return applies, None


def minimised(law: Law, case: Case) -> tuple[Case, str]:
    """Takes smaller cases as long as the law is broken."""
    why = tried(law, case)[1]
    for smaller in case.smaller():
        if tried(law, smaller)[1] is not None:
            return minimised(law, smaller)
    return case, str(why)


def cases(number: int, seed: int) -> Iterator[tuple[Case, tuple[Law, ...]]]:
    yield random_case(random_hypergraph, seed, number, 0), HYPERGRAPH_LAWS
    if number % TILES_EVERY == 0:
        yield random_case(random_tiling, seed, number, 1), TILE_LAWS


def checked(numbers: range, seed: int) -> tuple[Counter[str], Failure | None]:
    """How many cases every law was checked on, and the first failure."""
    counts: Counter[str] = Counter()
    for number in numbers:
        for case, laws in cases(number, seed):
            for law in laws:
                if number // TILES_EVERY % law.every:  # so that tiles get their turn as well
                    continue
                applies, why = tried(law, case)
                counts[law.name] += applies
                if why is not None:
                    minimal, why = minimised(law, case)
                    return counts, Failure(seed, number, law.name, repr(case), repr(minimal), why)
    return counts, None


def results(
    graphs: int, seed: int, processes: int
) -> Iterator[tuple[int, Counter[str], Failure | None]]:
    """Chunk after chunk in order, so that the first failure is the same in every run."""
    chunks = [range(a, min(a + CHUNK, graphs)) for a in range(0, graphs, CHUNK)]
    work = partial(checked, seed=seed)
    if processes == 1:
        for chunk in chunks:
            yield len(chunk), *work(chunk)
        return
    with get_context("spawn").Pool(processes, torch.set_num_threads, (1,)) as pool:
        for chunk, result in zip(chunks, pool.imap(work, chunks), strict=True):
            yield len(chunk), *result


def run(
    graphs: int, seed: int = 0, processes: int = 1, progress: bool = False
) -> tuple[Counter[str], Failure | None]:
    """Checks all laws on `graphs` random hypergraphs, and on tiles a tenth as often."""
    total: Counter[str] = Counter()
    with tqdm(total=graphs, disable=not progress, unit="graph", smoothing=0.02) as bar:
        for done, counts, failure in results(graphs, seed, processes):
            total += counts
            bar.update(done)
            if failure is not None:
                return total, failure
    return total, None


def table(counts: Mapping[str, int]) -> str:
    width = max(len(law.name) for law in LAWS)
    return "\n".join(f"{law.name:<{width}} {counts.get(law.name, 0):>9,}" for law in LAWS)


def record(
    counts: Mapping[str, int], graphs: int, seed: int, processes: int, seconds: float
) -> dict[str, object]:
    packages = ("numpy", "scipy", "networkx", "torch")
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "seed": seed,
        "graphs": graphs,
        "tilings": len(range(0, graphs, TILES_EVERY)),
        "failures": 0,
        "processes": processes,
        "seconds": round(seconds, 1),
        "versions": {
            "pgmdiff": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "laws": {law.name: counts.get(law.name, 0) for law in LAWS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--no-progress", action="store_true")
    given = parser.parse_args()
    start = time.perf_counter()
    counts, failure = run(given.graphs, given.seed, given.processes, not given.no_progress)
    seconds = time.perf_counter() - start
    if failure is not None:
        print(failure)
        raise SystemExit(1)
    print(f"{table(counts)}\n{given.graphs:,} graphs in {seconds:.0f} s, seed {given.seed}")
    if given.out is not None:
        figures = record(counts, given.graphs, given.seed, given.processes, seconds)
        given.out.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
