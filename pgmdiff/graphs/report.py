r"""Reports: what composing on a graph promises, given which acyclicity it has.

On a junction tree q = Π_r q_r^{c_r} for every q that is Markov to the tree, so that the composed
score is exact at σ = 0. For σ > 0 composing noised marginals is an approximation even there, since
the noised variables of a Markov chain are not Markov.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

import numpy as np
import torch

from pgmdiff.errors import GraphError
from pgmdiff.graphs.acyclicity import NODE_LIMIT, acyclicity, diameter, forest_of
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.groups import CHUNK
from pgmdiff.graphs.nesting import flatten
from pgmdiff.graphs.proxy import Proxy, proxy
from pgmdiff.graphs.regions import RegionGraph, condition_key
from pgmdiff.linalg import Ints
from pgmdiff.text import counted, described, folded

__all__ = ["Report", "check_counts", "conflict", "report", "report_factor_graph"]


AT_ONCE = 100_000
"""Evaluated elements up to which `lines` determines everything, in some tenths of a second."""


@dataclass(frozen=True, eq=False)
class Report:
    """What `validate` found.

    Attributes:
        n_elements, n_regions: sizes of the graph.
        n_zero_counts: number of regions with counting number 0, which are never evaluated.
        uncovered: elements in no region.
        unbalanced: elements whose counting numbers do not sum to 1.
        sums: their sums, times `denominator`.
        denominator: of all counting numbers.
        berge_acyclic: None if the graph has no factors and variables.
        alpha_acyclic: None for large tilings that form no tree, where it is not determined.
        junction_tree: whether the marginal rule is exact at σ = 0 for data Markov to the graph.
        graph: the region graph, for the properties that are determined on demand.
        nested_exact: whether this is a nested graph that is exact level by level.
        findings, own_warning: what a joint's rule adds, from the joint's `validate`.
        conflict: two regions on the same elements under different conditions, which therefore are
            not marginals of one distribution; None if there are none.
    """

    n_elements: int
    n_regions: int
    n_zero_counts: int
    uncovered: Ints
    unbalanced: Ints
    sums: Ints
    denominator: int
    berge_acyclic: bool | None
    alpha_acyclic: bool | None
    junction_tree: bool
    graph: RegionGraph = field(repr=False)
    nested_exact: bool = False
    findings: tuple[str, ...] = ()
    own_warning: str | None = None
    conflict: "tuple[Hashable, Hashable] | None" = None

    @property
    def valid(self) -> bool:
        """Whether every element is counted exactly once."""
        return len(self.unbalanced) == 0

    @property
    def promise(self) -> str:
        """What composing on this graph gives, for which data."""
        if not self.valid:
            return "Invalid: cannot be composed."
        if self.conflict is not None:
            a, b = self.conflict
            return (
                f"Regions {a!r} and {b!r} hold the same elements under different conditions: they "
                "are not marginals of one distribution, and the composition describes the product "
                "Π_r q_r^{c_r}, if that can be normalised. Marginal rule: exact at σ = 0 only. "
                "Rules Posterior and Consistent: exact at every σ for Gaussian regions with true "
                "covariances, on graphs with loops if those of the prior are given, too. The law "
                "E[(u_i - m_i) s_i] = -1 does not hold at σ > 0."
            )
        laws = (
            "Counts are valid: under the marginal rule E[(u_i - m_i) s_i] = -1 for every element, "
            "at every σ, for any data."
        )
        if self.junction_tree:
            return (
                "Marginal rule: exact at σ = 0 for any data that is Markov with respect to this "
                "junction tree, if the regions' models are its marginals. At σ > 0 it is an "
                "approximation, even for Gaussian data: noised variables of a Markov tree are not "
                "Markov. Rules Posterior and Consistent: exact at every σ for Gaussian data with "
                "true covariances, if it is Markov with respect to the tree; for other data they "
                f"are approximations, Consistent the better one. {laws}"
            )
        if self.nested_exact:
            return (
                "Marginal rule: exact at σ = 0 for data that is Markov with respect to the outer "
                "graph, and whose nested marginals are Markov with respect to the inner graphs: "
                f"all are junction trees. An approximation at σ > 0. {laws}"
            )
        why = {
            None: "regions form loops, or an overlap of two regions is counted in parts",
            True: "counts differ from the junction tree's (an overlap counted in parts, such as "
            "several variables, duplicate or nested scopes: use cluster variation)",
            False: "regions form loops",
        }[self.alpha_acyclic]
        return (
            f"Marginal rule: an approximation at every σ, σ = 0 included: {why}. Rules Posterior "
            "and Consistent: exact at every σ for Gaussian data that is Markov with respect to the "
            "graph, with true covariances and mean, up to 2,000 elements; for other data they are "
            f"approximations, Consistent the better one. {laws}"
        )

    @property
    def n_evaluations(self) -> int:
        """Number of regions evaluated by each call of the joint score."""
        return sum(int((g.counts != 0).sum()) for g in self.graph.groups)

    @property
    def n_evaluated_elements(self) -> int:
        """Number of elements in all evaluated regions, an element once per region that holds it."""
        return sum(int((g.counts != 0).sum()) * prod(g.shape) for g in self.graph.groups)

    @property
    def largest_region(self) -> int:
        """Number of elements of the largest region that is evaluated: the largest clique."""
        sizes = (prod(g.shape) for g in self.graph.groups if (g.counts != 0).any())
        return max(sizes, default=0)

    @cached_property
    def diameter(self) -> int | None:
        """The largest number of pieces on a shortest path between two connected elements.

        A step of the marginal rule carries information through one piece. None if too large.
        """
        return diameter(self.graph)

    @cached_property
    def proxy(self) -> Proxy | None:
        """Where the marginal rule is improper, for a common correlation; see `graphs.proxy`.

        None if counts are invalid or the graph is too large.
        """
        return proxy(self.graph) if self.valid else None

    @property
    def warning(self) -> str | None:
        """A warning if the marginal rule is improper for some data, or one of the joint's rule."""
        of_one = self.conflict is None and not self.junction_tree
        if self.findings or not of_one:
            return self.own_warning
        if self.proxy is None or self.proxy.improper_above is None:
            return None
        return (
            "under the marginal rule the composition turns improper for data whose blocks all "
            f"correlate by more than {self.proxy.improper_above:.3f}: samples of it can grow "
            "without bound. Larger pieces help, or the rule Consistent; pgmdiff.advise predicts "
            "the loss for your covariance"
        )

    def raise_if_invalid(self) -> None:
        """Raises an error that names the first elements that are not counted once.

        Raises:
            GraphError: the graph is not valid.
        """
        if not self.valid:
            raise GraphError(_imbalance(self.unbalanced, self.sums, self.denominator))

    def __repr__(self) -> str:
        sizes = f"{counted(self.n_regions, 'region')} over {counted(self.n_elements, 'element')}"
        wrong = "" if self.valid else f": {len(self.unbalanced)} elements are not counted once"
        return described(
            self,
            ("valid" if self.valid else "invalid") + wrong,
            sizes,
            f"junction_tree={self.junction_tree}",
            f"alpha_acyclic={self.alpha_acyclic}",
        )

    def __str__(self) -> str:
        return "\n".join(map(folded, self.lines(everything=True)))

    def lines(self, *, everything: bool = False) -> list[str]:
        """The lines of the printed report, which notebooks show.

        Args:
            everything: whether to include on large graphs, too, the lines that take long and are
                not determined yet, as `print` does.
        """
        known = {True: "yes", False: "no", None: "not determined"}
        berge = "does not apply" if self.berge_acyclic is None else known[self.berge_acyclic]
        lines = [
            f"{self.n_regions} regions over {self.n_elements} elements; "
            f"{self.n_zero_counts} have count 0 and are never evaluated",
            "every element is counted once"
            if self.valid
            else _imbalance(self.unbalanced, self.sums, self.denominator),
            f"Berge-acyclic: {berge}; "
            f"α-acyclic: {known[self.alpha_acyclic]}; "
            f"junction tree: {known[self.junction_tree]}",
            f"a step evaluates {self.n_evaluations} regions with {self.n_evaluated_elements} "
            f"elements in all; the largest has {self.largest_region}",
        ]
        determined = {"diameter", "proxy"} <= vars(self).keys()
        if everything or determined or self.n_evaluated_elements <= AT_ONCE:
            warning = self.warning
            lines += [
                f"diameter: {'not determined' if self.diameter is None else self.diameter} "
                f"(pieces between the elements farthest apart)",
                f"Gaussian proxy: {self._proper}",
            ]
        else:
            warning = self.own_warning
            lines.append(
                "diameter, Gaussian proxy: not yet determined, print the report to see them"
            )
        return [
            *lines,
            *self.findings,
            self.promise,
            *([f"WARNING: {warning}."] if warning else []),
        ]

    @property
    def _proper(self) -> str:
        if self.conflict is not None:
            return "does not apply: regions on the same elements differ by their conditions"
        if self.junction_tree:
            return "the composed precision of every Gaussian's own covariances is positive definite"
        if self.proxy is None:
            return "not tested (invalid, or too large)"
        limit = self.proxy.improper_above
        up_to = "all correlations" if limit is None else f"correlations up to {limit:.4f}"
        return (
            f"the composed precision of {self.proxy.n_atoms} equally correlated blocks is positive "
            f"definite for {up_to}"
        )


def report(
    graph: RegionGraph, *, berge_acyclic: bool | None = None, junction_tree: bool | None = None
) -> Report:
    """Checks a region graph, given what is already known of it; see `Report`."""
    unbalanced, sums = graph.unbalanced()
    known, alpha_acyclic = junction_tree, True if berge_acyclic else None
    if known is None:
        known, alpha_acyclic = graph.junction_tree, True if graph.junction_tree else alpha_acyclic
        size = sum(len(g) * prod(g.shape) for g in graph.groups)
        if known is None or (graph.n_regions <= NODE_LIMIT and size <= CHUNK):
            alpha_acyclic, known = acyclicity(graph)  # what is claimed is checked
    uncovered = unbalanced  # of which a valid graph has none
    if len(unbalanced):
        times = graph.sums(np.ones(len(group), np.int64) for group in graph.groups)
        uncovered = unbalanced[times[unbalanced] == 0]
    return Report(
        n_elements=graph.n_elements,
        n_regions=graph.n_regions,
        n_zero_counts=sum(int((g.counts == 0).sum()) for g in graph.groups),
        uncovered=uncovered,
        unbalanced=unbalanced,
        sums=sums,
        denominator=graph.denominator,
        berge_acyclic=berge_acyclic,
        alpha_acyclic=alpha_acyclic,
        junction_tree=known,
        graph=graph,
        conflict=conflict(graph),
    )


def conflict(graph: RegionGraph) -> tuple[Hashable, Hashable] | None:
    """Two regions of equal elements and different conditions, the first found; None if none are."""
    seen: dict[bytes, tuple[Hashable, Hashable]] = {}
    for name in _perhaps_equal(graph) if len(graph.conditions) > 1 else ():
        if name not in graph.conditions:
            continue
        elements = np.sort(graph.elements(name).numpy(), axis=None).tobytes()
        key = condition_key(graph.conditions[name])
        other, known = seen.setdefault(elements, (name, key))
        if known != key:
            return other, name
    return None


def _perhaps_equal(graph: RegionGraph) -> Iterator[Hashable]:
    """The regions whose elements are as many as another's, of the same sum and least element."""
    facts = [torch.zeros(0, 3, dtype=torch.int64)]
    for group in graph.groups:
        size = prod(group.shape)
        for _, index in group.chunks():
            least = index.amin(dim=1) if size else index.sum(dim=1)
            facts.append(torch.stack([torch.full_like(least, size), index.sum(dim=1), least], 1))
    _, same, times = torch.cat(facts).unique(dim=0, return_inverse=True, return_counts=True)
    start, alike = 0, (times[same] > 1).numpy()
    for group in graph.groups:
        rows = np.flatnonzero(alike[start : start + len(group)])
        yield from (group.name(int(row)) for row in rows)
        start += len(group)


def report_factor_graph(graph: FactorGraph) -> Report:
    """Checks a factor graph; a forest of distinct factors is a junction tree.

    Of a nested graph the leaves are checked, since they are what is evaluated. It is exact at σ = 0
    where the outer graph is, and every inner one that is counted.
    """
    if graph.nested:
        flat = report(flatten(graph, (), to_compose=False))
        return replace(flat, nested_exact=_nested_exact(graph))
    berge_acyclic, distinct = forest_of(graph)
    tree = True if berge_acyclic and distinct else None
    return report(graph.regions, berge_acyclic=berge_acyclic, junction_tree=tree)


def _nested_exact(graph: FactorGraph | RegionGraph) -> bool:
    """Whether a graph and those nested in it, where they are counted, are all junction trees."""
    if isinstance(graph, RegionGraph) or not graph.nested:
        return graph.validate().junction_tree
    counts, outer = graph.counting_numbers(), replace(graph, nested={})
    inner = (each for name, each in graph.nested.items() if counts[name])
    return _nested_exact(outer) and all(map(_nested_exact, inner))


def check_counts(graph: RegionGraph) -> None:
    """Raises `GraphError` unless every element is counted once."""
    unbalanced, sums = graph.unbalanced()
    if len(unbalanced):
        raise GraphError(_imbalance(unbalanced, sums, graph.denominator))


def _imbalance(elements: Ints, sums: Ints, denominator: int) -> str:
    shown = ", ".join(
        f"element {e}: {s}" + (f"/{denominator}" if denominator > 1 else "")
        for e, s in zip(elements[:3].tolist(), sums[:3].tolist(), strict=True)
    )
    more = f" and {len(elements) - 3} more" if len(elements) > 3 else ""
    return (
        f"RegionGraph: counting numbers must sum to 1 on every element, got {shown}{more}. "
        "Add the missing regions (the overlaps of overlaps, often) or correct the counts."
    )
