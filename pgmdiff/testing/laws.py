r"""The laws of graphs: each is a function that raises `LawBroken` and says where a law is broken.

For region graphs with counts c_r, region scores s_r(·, σ) of one distribution q and composed score
s = Σ_r c_r A_rᵀ s_r A_r, whatever the graph, the data and σ:

    Σ_{r ∋ i} c_r = 1 for every element i                              counts_sum_to_one
    E[(u_i - m_i) s_i(u, σ)] = -1, so (J (Σ + σ² I))_ii = 1            steins_identity_holds
    s = ∇ Σ_r c_r log q_σ(A_r u)                                       the_score_is_a_gradient
    J_ij = 0 where no region holds both i and j                        only_shared_regions_couple

and on junction trees, at σ = 0 and for q Markov to the tree, s = ∇ log q  (promises_are_kept). With
`Consistent` s = ∇ log q_σ for Gaussians Markov to any graph  (consistent_composition_is_exact).
"""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from pgmdiff.composition.composing import compose
from pgmdiff.composition.consistent import Consistent
from pgmdiff.errors import GraphError
from pgmdiff.gaussian import (
    Gaussian,
    GaussianMixture,
    bethe_entropy,
    composed_log_density,
    composed_precision,
    node_covariances,
    node_scores,
)
from pgmdiff.graphs import (
    FactorGraph,
    RegionGraph,
    cluster_variation,
    from_json,
    junction_tree,
    to_json,
)
from pgmdiff.graphs.acyclicity import forest_of
from pgmdiff.graphs.atoms import atoms, first_elements
from pgmdiff.graphs.nesting import flatten
from pgmdiff.graphs.regions import condition_key
from pgmdiff.linalg import Ints
from pgmdiff.testing import oracles

__all__ = ["ALL", "LawBroken", "NotApplicable", "Subject"]

DENSE = 48
"""Number of elements beyond which a graph is reduced to its atoms."""
LARGEST = 300
"""Number of atoms, or elements of a nested graph, beyond which no dense oracle is made."""
FEW_ELEMENTS = 128
"""Number of elements up to which axes are permuted; atoms have no axes."""
FEW_PIECES = 12
"""Number of pieces up to which inclusion-exclusion is summed, over 2^12 terms."""
MANY_REGIONS = 1_000
"""Number of regions beyond which nothing is done one region, or pair of regions, at a time."""
SIGMAS = (0.3, 1.7)
TOLERANCE = 1e-8
"""Relative tolerance in float64, with room for covariances of condition number 10^6."""


class LawBroken(AssertionError):
    """A graph, or the library, breaks a law."""


class NotApplicable(Exception):
    """A law does not apply to this graph, or the graph is too large to check it."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A graph under test, and what is derived from it.

    Args:
        graph: the graph as it was given.
        seed: seed of everything random.
    """

    graph: FactorGraph | RegionGraph
    seed: int = 0

    @cached_property
    def regions(self) -> RegionGraph:
        """The regions that are composed, without conditions: they have no part in the laws."""
        if isinstance(self.graph, RegionGraph):
            return replace(self.graph, conditions={})
        return replace(flatten(self.graph, (), to_compose=False), conditions={})

    @cached_property
    def reduced(self) -> RegionGraph:
        """The regions with one element per atom: counts and acyclicity are the same."""
        graph = self.regions
        _few_regions(graph)
        arrays = {name: graph.elements(name).reshape(-1).numpy() for name in graph.names}
        labels = atoms(arrays.values(), graph.n_elements)
        first = first_elements(labels)
        kept = np.isin(np.arange(graph.n_elements), first)
        return _with_regions(
            graph, {n: labels[a[kept[a]]] for n, a in arrays.items()}, (len(first),)
        )

    @cached_property
    def pieces(self) -> list[frozenset[Any]]:
        """The elements of every outer region of the reduced graph."""
        return oracles.outer_sets(self.reduced)

    @cached_property
    def small(self) -> RegionGraph:
        """The regions, reduced to atoms if they have many elements.

        Raises:
            NotApplicable: that leaves too many.
        """
        if self.regions.n_elements <= DENSE:
            return self.regions
        if self.reduced.n_elements > LARGEST:
            raise NotApplicable(f"{self.reduced.n_elements} atoms are too many for a dense oracle")
        return self.reduced

    @cached_property
    def gaussian(self) -> Gaussian:
        """A Gaussian that is Markov to the small graph's pieces."""
        return oracles.markov_gaussian(self.small, self.seed)

    @cached_property
    def mixture(self) -> GaussianMixture:
        """A mixture of such Gaussians."""
        return oracles.markov_mixture(self.small, self.seed)

    @cached_property
    def states(self) -> Tensor:
        """Three states of the small graph, float64 `[3, *event]`."""
        return self.draw(3, *self.small.event_shape)

    def draw(self, *shape: int) -> Tensor:
        """Standard normal numbers in float64."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def factor_graph(self) -> FactorGraph:
        """The graph itself, if it is a factor graph small enough to look at node by node."""
        if not isinstance(self.graph, FactorGraph):
            raise NotApplicable("not a factor graph")
        _few_regions(self.graph.nodes)
        return self.graph

    def valid(self) -> RegionGraph:
        """The small graph, if it can be composed."""
        if not self.regions.n_elements:
            raise NotApplicable("the state is empty")
        return self.small


# ---------------------------------------------------------------- counts


def counts_sum_to_one(subject: Subject) -> None:
    """Every element is counted once: summed region by region, not as the library does it."""
    graph = subject.regions
    sums = np.zeros(graph.n_elements, np.int64)
    for group in graph.groups:
        for rows, index in group.chunks():
            np.add.at(sums, index.numpy(), group.counts[rows, None])
    wrong = np.flatnonzero(sums != graph.denominator)
    if len(wrong):
        element = int(wrong[0])
        share = "" if graph.denominator == 1 else f"/{graph.denominator}"
        raise LawBroken(
            f"element {element} is in {_holders(graph, element)}: the counts sum to "
            f"{sums[element]}{share}, expected {graph.denominator}{share}."
        )


def bethe_counts_are_one_minus_degree(subject: Subject) -> None:
    """c_f = 1 and c_x = 1 - d_x, degrees counted from the scopes."""
    graph = subject.factor_graph()
    degrees = Counter(name for scope in graph.scopes.values() for name in scope)
    for name, count in graph.counting_numbers().items():
        expected = 1 if name in graph.scopes else 1 - degrees[name]
        _equal(count, expected, f"the count of {name!r}")


def names_and_elements_are_unambiguous(subject: Subject) -> None:
    """Names are unique; a region lists each of its elements once, all inside the state."""
    graph = subject.regions
    _few_regions(graph)
    twice = [name for name, n in Counter(graph.names).items() if n > 1]
    if twice:
        raise LawBroken(f"two regions are named {twice[0]!r}.")
    for name in graph.names:
        elements = graph.elements(name).reshape(-1).tolist()
        if len(set(elements)) < len(elements):
            raise LawBroken(f"region {name!r} lists an element twice: {sorted(elements)}.")
        if elements and not 0 <= min(elements) <= max(elements) < graph.n_elements:
            raise LawBroken(f"region {name!r} leaves the state of {graph.n_elements} elements.")


# ---------------------------------------------------------------- structure


def acyclicity_is_reported_truly(subject: Subject) -> None:
    """Berge-acyclic ⇒ α-acyclic ⇔ GYO reduction; a junction tree is α-acyclic."""
    report = subject.graph.validate()
    acyclic = oracles.is_acyclic(subject.pieces)
    if report.junction_tree and not acyclic:
        raise LawBroken("it is reported to be a junction tree, but its pieces form loops.")
    if report.berge_acyclic and not acyclic:
        raise LawBroken("it is reported to be Berge-acyclic, but its pieces form loops.")
    if report.alpha_acyclic is not None:
        _equal(report.alpha_acyclic, acyclic, "α-acyclic, by GYO reduction")


def cluster_variation_is_inclusion_exclusion(subject: Subject) -> None:
    """Cluster variation of the pieces: Möbius = inclusion-exclusion, supersets sum to 1."""
    pieces = subject.pieces
    counts: Mapping[Any, int] = cluster_variation(list(map(sorted, pieces))).counting_numbers()
    if len(set(pieces)) <= FEW_PIECES:
        _equal(counts, oracles.inclusion_exclusion(pieces), "the counts of cluster variation")
    for region in counts:
        total = oracles.superset_counts(counts, region)
        _equal(total, 1, f"the sum of counts around {sorted(region)}")


def cluster_variation_depends_on_maximal_pieces_only(subject: Subject) -> None:
    """Order, duplicates and subsets change no count; a disjoint union concatenates."""
    pieces = list(map(sorted, subject.pieces))
    counts = cluster_variation(pieces).counting_numbers()
    again = [*pieces[::-1], *pieces[:2], *(piece[: max(1, len(piece) // 2)] for piece in pieces)]
    found = cluster_variation(again).counting_numbers()
    _equal(found, counts, "the counts, with pieces reordered, repeated and cut")
    primed = [[(element, "'") for element in piece] for piece in pieces]
    both = cluster_variation([*pieces, *primed]).counting_numbers()
    other = cluster_variation(primed).counting_numbers()
    _equal(both, counts | other, "the counts of a disjoint union")


def acyclic_pieces_have_one_answer(subject: Subject) -> None:
    """On α-acyclic pieces cluster variation ≡ junction tree; Σ c = number of components."""
    if not oracles.is_acyclic(subject.pieces):
        raise NotApplicable("the pieces form loops")
    scopes = list(map(sorted, subject.pieces))
    counts = cluster_variation(scopes).counting_numbers()
    _equal(junction_tree(scopes).counting_numbers(), counts, "the counts of the junction tree")
    paths = nx.Graph()
    for scope in scopes:
        nx.add_path(paths, scope)
    components = nx.number_connected_components(paths)
    _equal(sum(counts.values()), components, "the sum of all counts (components)")
    graph = subject.graph
    if isinstance(graph, FactorGraph) and not graph.nested and all(forest_of(graph)):
        shapes = dict(zip(graph.variables, graph.shapes, strict=True))
        plain = FactorGraph.from_scopes(graph.scopes, shapes)
        of_scopes = oracles.counts_by_elements(cluster_variation(plain))
        bethe = oracles.counts_by_elements(graph.regions)
        _equal(bethe, of_scopes, "Bethe's counts, against cluster variation")


# ---------------------------------------------------------------- scores


def the_score_is_the_weighted_sum(subject: Subject) -> None:
    """What `compose` evaluates in batches is Σ_r c_r A_rᵀ s_r, one region at a time."""
    graph = subject.valid()
    for q in (subject.gaussian, subject.mixture):
        joint = compose(graph, node_scores(graph, q))
        for sigma in SIGMAS:
            flat = subject.states.reshape(len(subject.states), -1)
            expected = oracles.weighted_sum(graph, q, flat, sigma)
            _close(joint(subject.states, sigma), expected, graph, "the composed score")


def the_score_is_a_gradient(subject: Subject) -> None:
    """The composed score is the autograd gradient of the composed log-density."""
    graph = subject.valid()
    for q in (subject.gaussian, subject.mixture):
        joint = compose(graph, node_scores(graph, q))
        for sigma in SIGMAS:
            u = subject.states.clone().requires_grad_()
            density = composed_log_density(graph, q, u, sigma).sum()
            (gradient,) = torch.autograd.grad(density, u)
            score = joint(subject.states, sigma)
            _close(score, gradient, graph, "the composed score, against autograd")


def steins_identity_holds(subject: Subject) -> None:
    """Per element E[(u_i - m_i) s_i] = -1, hence (J (Σ + σ² I))_ii = 1, on loops too."""
    graph = subject.valid()
    for sigma in (0.0, *SIGMAS):
        noised = subject.gaussian.noised(sigma).covariance
        diagonal = (composed_precision(graph, subject.gaussian, sigma) @ noised).diagonal()
        _close(diagonal, torch.ones_like(diagonal), graph, f"-E[(u - m) s] at σ = {sigma}")


def only_shared_regions_couple(subject: Subject) -> None:
    """The composed precision is 0 where two elements share no region."""
    graph = subject.valid()
    shared = np.eye(graph.n_elements, dtype=bool)
    for group in graph.groups:
        for elements in group.flat():
            shared[np.ix_(elements, elements)] = True
    precision = composed_precision(graph, subject.gaussian, SIGMAS[0]).numpy()
    wrong = np.argwhere((np.abs(precision) > 0) & ~shared)
    if len(wrong):
        i, j = wrong[0].tolist()
        raise LawBroken(f"elements {i} and {j} share no region, but their precision is not 0.")


def zero_counts_are_never_called(subject: Subject) -> None:
    """A region of count 0 costs no evaluation; every other one is seen exactly once."""
    graph = subject.valid()
    _few_regions(graph)
    called: Counter[Hashable] = Counter()

    def record(name: Hashable, x: Tensor, sigma: Tensor) -> Tensor:
        called[name] += len(x)
        return -x

    arrays = {name: graph.elements(name).numpy() for name in graph.names}
    without_models = _with_regions(graph, arrays, graph.event_shape)
    recorders = {name: partial(record, name) for name in graph.names}
    compose(without_models, recorders)(subject.states[:1], 1.0)
    for name, count in graph.counting_numbers().items():
        _equal(called[name], int(count != 0), f"evaluations of {name!r} (count {count})")


def relabelling_changes_nothing(subject: Subject) -> None:
    """Elements renumbered, regions renamed and reordered: the same score, renumbered."""
    graph = subject.valid()
    rng = np.random.default_rng(subject.seed)
    place = rng.permutation(graph.n_elements)
    names = list(graph.names)
    rng.shuffle(names)
    arrays = {name: place[graph.elements(name).numpy()] for name in names}
    relabelled = _with_regions(graph, arrays, (graph.n_elements,))
    what = "the score of the relabelled graph"
    _same_score(graph, relabelled, place, subject.gaussian, subject.states, what)


def axes_may_be_permuted(subject: Subject) -> None:
    """The state's axes in another order, the regions with them: the same score, transposed."""
    graph = subject.regions
    if not graph.n_elements:
        raise NotApplicable("the state is empty")
    if len(graph.event_shape) < 2:
        raise NotApplicable("the state has one axis")
    if graph.n_elements > FEW_ELEMENTS:
        raise NotApplicable(f"{graph.n_elements} elements are too many to permute axes of")
    _few_regions(graph)
    turned = np.arange(graph.n_elements).reshape(graph.event_shape).T
    place = np.argsort(turned, axis=None)
    arrays = {name: place[graph.elements(name).numpy()] for name in graph.names}
    permuted = _with_regions(graph, arrays, turned.shape)
    q, u = oracles.markov_gaussian(graph, subject.seed), subject.draw(2, *graph.event_shape)
    _same_score(graph, permuted, place, q, u, "the score with axes permuted")


def batches_change_nothing(subject: Subject) -> None:
    """One row per model call, or one sample per joint call: the same score."""
    graph = subject.valid()
    scores = node_scores(graph, subject.mixture)
    whole = compose(graph, scores)(subject.states, SIGMAS[0])
    single = compose(graph, scores, max_batch=1)(subject.states, SIGMAS[0])
    _close(single, whole, graph, "the score with max_batch=1")
    apart = [compose(graph, scores)(u, SIGMAS[0]) for u in subject.states]
    _close(torch.stack(apart), whole, graph, "the score of one sample at a time")


def promises_are_kept(subject: Subject) -> None:
    """On a reported junction tree precision and entropy of Gaussians Markov to it are exact."""
    graph = subject.valid()
    if not subject.graph.validate().junction_tree:
        raise NotApplicable("no exactness is promised")
    q = subject.gaussian
    precision = composed_precision(graph, q)
    _close(precision, torch.linalg.inv(q.covariance), graph, "the composed precision at σ = 0")
    entropy, expected = bethe_entropy(graph, q), q.entropy()
    if abs(entropy - expected) > TOLERANCE * max(1.0, abs(expected)):
        raise LawBroken(f"the Bethe entropy is {entropy:.9g}, expected {expected:.9g}.")


def consistent_composition_is_exact(subject: Subject) -> None:
    """Under `Consistent` the score of Gaussians Markov to the graph is exact, on loops too.

    Without memory it is so on junction trees by any covariances, in a first call by the right ones.
    """
    graph, q = subject.valid(), subject.gaussian
    joint = compose(graph, node_scores(graph, q), rule=Consistent(node_covariances(graph, q)))
    for sigma in SIGMAS:
        expected = q(subject.states, sigma)
        _close(
            joint(subject.states, sigma), expected, graph, f"the consistent score at σ = {sigma}"
        )
        first = joint.remembering()(subject.states, sigma)
        _close(first, expected, graph, f"the first consistent score at σ = {sigma}")


def nested_nodes_may_be_kept(subject: Subject) -> None:
    """Keeping a nested node and giving it its composed inner graph changes nothing."""
    graph = subject.factor_graph()
    if not graph.nested:
        raise NotApplicable("no node is nested")
    if graph.n_elements > LARGEST:
        raise NotApplicable(f"{graph.n_elements} elements are too many for a dense oracle")
    u = subject.draw(2, graph.n_elements)
    expanded = compose(graph, _by_model(graph.flatten()))(u, 1.0)
    for name, inner in graph.nested.items():
        own = object()  # a model id that no leaf has
        flat = replace(graph, models={**graph.models, name: own}).flatten(keep={(name,)})
        composed = compose(inner.regions, _by_model(inner.regions))
        node = partial(_reshaped, composed, inner.regions.event_shape)
        kept = compose(flat, {**_by_model(flat), own: node})(u, 1.0)
        _close(kept, expanded, graph.regions, f"the score with {name!r} kept whole")
        if isinstance(inner, FactorGraph) and inner.nested:
            nested_nodes_may_be_kept(Subject(inner, subject.seed))


# ---------------------------------------------------------------- housekeeping


def saving_and_loading_is_the_identity(subject: Subject) -> None:
    """`from_json(to_json(graph))` has the same JSON, elements, counts, models and conditions."""
    _few_regions(subject.regions)
    try:
        text = to_json(subject.graph)
    except GraphError as error:
        raise NotApplicable(str(error)) from None
    loaded = from_json(text)
    _equal(to_json(loaded) == text, True, "whether the loaded graph has the same JSON")
    again, regions = loaded.regions, subject.regions
    _equal(again.counting_numbers(), regions.counting_numbers(), "the loaded counts")
    _equal([g.model for g in again.groups], [g.model for g in regions.groups], "the models")
    for name in regions.names:
        _equal(again.elements(name).tolist(), regions.elements(name).tolist(), f"region {name!r}")
    keys = [{n: condition_key(c) for n, c in g.conditions.items()} for g in (loaded, subject.graph)]
    _equal(keys[0] == keys[1], True, "whether the loaded conditions are those of the graph")


def networkx_gives_the_graph_back(subject: Subject) -> None:
    """`from_networkx(to_networkx())` keeps scopes and their order, shapes, counts and models."""
    graph = subject.factor_graph()
    try:
        drawn = graph.to_networkx()
    except ValueError as error:  # networkx has no node None
        raise NotApplicable(str(error)) from None
    again = FactorGraph.from_networkx(drawn)
    _equal(dict(again.scopes), dict(graph.scopes), "the scopes")
    _equal((again.variables, again.shapes), (graph.variables, graph.shapes), "the variables")
    _equal(again.counting_numbers(), graph.counting_numbers(), "the counts")
    _equal(again.nested.keys(), graph.nested.keys(), "the nested nodes")
    models = {g.model for g in graph.nodes.groups}
    if None in models:  # otherwise networkx, which knows no kinds, gives every node its own
        _equal({g.model for g in again.nodes.groups}, models, "the models")
    for name, condition in graph.conditions.items():
        found = condition_key(again.conditions.get(name, {}))
        _equal(found == condition_key(condition), True, f"whether {name!r} has its condition")
    for name in graph.nodes.names:
        same = torch.equal(again.nodes.elements(name), graph.nodes.elements(name))
        _equal(same, True, f"whether region {name!r} is the same")


def packing_and_unpacking_are_inverse(subject: Subject) -> None:
    """`pack(unpack(u))` is u, bit for bit; the region graph unpacks as the factor graph does."""
    graph = subject.factor_graph()
    u = torch.arange(2.0 * graph.n_elements).reshape(2, graph.n_elements)
    parts, again = graph.unpack(u), subject.regions.unpack(u)
    if graph.n_elements and not torch.equal(graph.pack(parts), u):
        raise LawBroken("pack(unpack(u)) is not u.")
    if parts.keys() != again.keys() or not all(torch.equal(parts[n], again[n]) for n in parts):
        raise LawBroken("the region graph does not unpack u as the factor graph does.")


def nothing_is_mutated(subject: Subject) -> None:
    """Composing and calling leaves the graph, the state and σ as they were."""
    graph = subject.valid()
    before = [(g.indices(0, len(g)).clone(), g.counts.copy()) for g in graph.groups]
    u, sigma = subject.states.clone(), torch.ones(len(subject.states), dtype=torch.float64)
    compose(graph, node_scores(graph, subject.gaussian))(u, sigma)
    _equal(torch.equal(u, subject.states), True, "whether the state is untouched")
    _equal(bool((sigma == 1).all()), True, "whether σ is untouched")
    for group, (index, counts) in zip(graph.groups, before, strict=True):
        same = torch.equal(group.indices(0, len(group)), index) and (group.counts == counts).all()
        _equal(bool(same), True, "whether the regions are untouched")


ALL = (
    names_and_elements_are_unambiguous,
    counts_sum_to_one,
    bethe_counts_are_one_minus_degree,
    acyclicity_is_reported_truly,
    cluster_variation_is_inclusion_exclusion,
    cluster_variation_depends_on_maximal_pieces_only,
    acyclic_pieces_have_one_answer,
    the_score_is_the_weighted_sum,
    the_score_is_a_gradient,
    steins_identity_holds,
    only_shared_regions_couple,
    zero_counts_are_never_called,
    relabelling_changes_nothing,
    axes_may_be_permuted,
    batches_change_nothing,
    promises_are_kept,
    consistent_composition_is_exact,
    nested_nodes_may_be_kept,
    saving_and_loading_is_the_identity,
    networkx_gives_the_graph_back,
    packing_and_unpacking_are_inverse,
    nothing_is_mutated,
)


# ---------------------------------------------------------------- what laws share


def _equal(got: object, expected: object, what: str) -> None:
    if got != expected:
        found, wanted = (t if len(t) <= 300 else f"{t[:300]}…" for t in map(repr, (got, expected)))
        raise LawBroken(f"{what}: got {found}, expected {wanted}.")


def _close(got: Tensor, expected: Tensor, graph: RegionGraph, what: str) -> None:
    """Compares `[..., N]` or `[batch, *event]`, relative to the largest entry."""
    got, expected = got.reshape(-1, graph.n_elements), expected.reshape(-1, graph.n_elements)
    error = (got - expected).abs()
    if not error.numel() or error.max() <= TOLERANCE * expected.abs().max().clamp(min=1):
        return
    row, element = divmod(int(error.argmax()), graph.n_elements)
    raise LawBroken(
        f"{what}: got {got[row, element]:.6g}, expected {expected[row, element]:.6g} on element "
        f"{element}, which is in {_holders(graph, element)}."
    )


def _holders(graph: RegionGraph, element: int) -> str:
    """The regions that hold an element, with their counts."""
    found = []
    for group in graph.groups:
        for rows, index in group.chunks():
            holding = (index == element).any(dim=1).nonzero()[:, 0] + rows.start
            found += [f"{group.name(row)!r} ({group.counts[row]:+d})" for row in holding.tolist()]
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return (", ".join(found[:8]) or "no region") + more


def _few_regions(graph: RegionGraph) -> None:
    if graph.n_regions > MANY_REGIONS:
        raise NotApplicable(f"{graph.n_regions} regions are too many to look at one by one")


def _with_regions(
    graph: RegionGraph, arrays: dict[Hashable, Any], event_shape: tuple[int, ...]
) -> RegionGraph:
    """Other elements for regions of the same names, counts and flags; model ids are their names."""
    flags = {n: bool(o) for g in graph.groups for n, o in zip(g.names, g.outer, strict=True)}
    counts = graph.counting_numbers()
    return RegionGraph.grouped(
        arrays,
        {name: (counts[name], flags[name]) for name in arrays},
        event_shape,
        models={},
        conditions={},
        denominator=graph.denominator,
    )


def _same_score(
    graph: RegionGraph, other: RegionGraph, place: Ints, q: Gaussian, u: Tensor, what: str
) -> None:
    """Compares the scores of two graphs: element i of one is element place[i] of the other."""
    moved = torch.from_numpy(np.argsort(place))
    mean = q.mean.reshape(-1)[moved].reshape(other.event_shape)
    there = Gaussian(mean, q.covariance[moved][:, moved])
    v = u.reshape(len(u), -1)[:, moved].reshape(len(u), *other.event_shape)
    score = compose(graph, node_scores(graph, q))(u, SIGMAS[0])
    again = compose(other, node_scores(other, there))(v, SIGMAS[0])
    _close(again.reshape(len(u), -1)[:, place], score, graph, what)


def _by_model(graph: RegionGraph) -> dict[Hashable, Any]:
    """A score for every model id, each different, none depending on its condition."""

    def score(slope: float, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        return -slope * x.reshape(len(x), -1).cumsum(dim=1).tanh().reshape(x.shape) - x

    ids = {n if g.model is None else g.model for g in graph.groups for n in g.names}
    return {model: partial(score, 1 + (sum(repr(model).encode()) % 97) / 97) for model in ids}


def _reshaped(
    joint: Callable[..., Tensor], shape: tuple[int, ...], x: Tensor, sigma: Tensor, **condition: Any
) -> Tensor:
    """A joint of an inner state, as the score of a node of another shape."""
    return joint(x.reshape(len(x), *shape), sigma).reshape(x.shape)
