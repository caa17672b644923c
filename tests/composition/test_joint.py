import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pgmdiff import (
    Average,
    Consistent,
    GraphError,
    Marginal,
    PgmdiffError,
    Posterior,
    ScoreError,
    ShapeError,
    compose,
    samplers,
)
from pgmdiff.composition import Joint
from pgmdiff.conditioning import moment_matching
from pgmdiff.gaussian import Gaussian, node_covariances, node_scores
from pgmdiff.graphs import FactorGraph, RegionGraph, chain, cluster_variation, cycle, tiles
from pgmdiff.scores import guided
from pgmdiff.testing import markov_gaussian
from pgmdiff.testing.strategies import factor_graphs
from tests.helpers import ar1, meta_without_float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def nonlinear(x: Tensor, sigma: Tensor) -> Tensor:
    """A score that depends on order and shape, one row at a time."""
    flat = x.reshape(len(x), -1)
    out = torch.sin(flat.cumsum(dim=1)) / (1 + sigma[:, None] ** 2)
    return out.reshape(x.shape)


def loop_over_regions(graph: RegionGraph, u: Tensor, sigma: float) -> Tensor:
    """The definition, one region and one sample at a time."""
    flat = u.reshape(len(u), -1)
    total = torch.zeros_like(flat)
    for name, count in graph.counting_numbers().items():
        index = graph.elements(name)
        for sample in range(len(u)):
            score = nonlinear(flat[sample][index][None], torch.tensor([sigma]))[0]
            total[sample, index.reshape(-1)] += count * score.reshape(-1)
    return total.reshape(u.shape)


@settings(max_examples=60)
@given(factor_graphs(), st.integers(1, 3), st.sampled_from([None, 1, 2, 3, 5]))
def test_joint_is_the_weighted_sum_over_regions(
    graph: FactorGraph, n_samples: int, max_batch: int | None
) -> None:
    u = torch.randn(n_samples, graph.n_elements, generator=generator(), dtype=torch.float64)
    joint = compose(graph, nonlinear, max_batch=max_batch)
    expected = loop_over_regions(graph.regions, u, 0.7)
    torch.testing.assert_close(joint(u, 0.7), expected)
    assert all(len(b.group) > 0 and (b.weights != 0).all() for b in joint.batches)


@pytest.mark.parametrize("max_batch", [None, 1, 3, 16])
def test_tiles_compose_like_the_definition(max_batch: int | None) -> None:
    graph = tiles((2, 12, 8), (2, 4, 4), (0, 2, 2), (False, True, False))
    u = torch.randn(3, 2, 12, 8, generator=generator(), dtype=torch.float64)
    joint = compose(graph, nonlinear, max_batch=max_batch)
    torch.testing.assert_close(joint(u, 0.7), loop_over_regions(graph, u, 0.7))


def test_calls_are_batched_and_zero_counts_are_never_evaluated() -> None:
    calls = []

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape == (len(x),)
        calls.append(tuple(x.shape))
        return -x

    graph, u = chain(6, (2,)), torch.randn(3, 12, generator=generator())
    compose(graph, score)(u, 1.0)
    assert sorted(calls) == [(12, 2), (15, 4)]  # 4 inner variables and 5 factors, 3 samples
    calls.clear()
    compose(graph, score, max_batch=4)(u, 1.0)
    assert sum(n for n, _ in calls) == 27
    assert max(n for n, _ in calls) <= 4
    calls.clear()
    compose(graph, score, rule=Average())(u, 1.0)
    assert calls == [(15, 4)]


def test_factors_and_variables_of_one_shape_share_a_call() -> None:
    calls = []

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(len(x))
        return -x

    graph = FactorGraph.from_scopes({"f": ("a",), "g": ("a",), "h": ("b",)}, {"a": (2,), "b": (2,)})
    compose(graph, score)(torch.zeros(1, 4), 1.0)
    assert calls == [4]
    calls.clear()
    by_model = chain(4, factor_model="f", variable_model="v")
    compose(by_model, {"f": score, "v": score})(torch.zeros(1, 4), 1.0)
    assert sorted(calls) == [2, 3]
    calls.clear()
    same_shape = FactorGraph.from_scopes(
        {"f": ("a",), "g": ("a",)}, {"a": (1,)}, factor_model="f", variable_model="v"
    )
    compose(same_shape, {"f": score, "v": score})(torch.zeros(1, 1), 1.0)
    assert calls == [3]


def test_models_by_id() -> None:
    graph, q = chain(3, (2,)), markov_gaussian(chain(3, (2,)), 0)
    scores = node_scores(graph, q)
    u = torch.randn(2, 6, generator=generator(), dtype=torch.float64)
    expected = compose(graph, scores)(u, 0.5)
    named = {name: scores[name] for name in ("f0", "f1", "x1")}  # ends have count 0
    torch.testing.assert_close(compose(graph, named)(u, 0.5), expected)
    tiled = tiles((8,), 4, 2)
    by_shape = {(4,): lambda x, sigma: -x, (2,): lambda x, sigma: -2 * x}
    out = compose(tiled, by_shape)(torch.ones(1, 8), 1.0)
    assert out.tolist() == [[-1, -1, 0, 0, 0, 0, -1, -1]]


def test_a_missing_model_is_named_with_the_ways_to_get_one() -> None:
    with pytest.raises(ScoreError, match=r"node 'x1' needs the model 'x1'") as error:
        compose(chain(3), {"f0": nonlinear, "f1": nonlinear})
    for remedy in ("padded", "Gaussian.fit", "Average()"):
        assert remedy in str(error.value)
    clusters = cluster_variation(FactorGraph.from_scopes({"f": ("a", "b"), "g": ("c", "b")}))
    with pytest.raises(ScoreError, match=r"\('f', 'g'\)\. Add it\. Regions of scopes are named by"):
        compose(clusters, {"f": nonlinear, "g": nonlinear})
    with pytest.raises(ScoreError, match="'f0' is of type int, expected a callable"):
        compose(chain(2), {"f0": 3})
    with pytest.raises(ScoreError, match="'f0' is a class, expected a callable"):
        compose(chain(2), {"f0": Gaussian})
    with pytest.raises(ScoreError, match="score of all nodes is of type int"):
        compose(chain(2), 3)
    with pytest.raises(GraphError, match="got dict"):
        compose({"f": ("a", "b")}, nonlinear)  # type: ignore[arg-type]


def test_any_batch_shape_and_sigma() -> None:
    joint = compose(chain(4), nonlinear)
    u = torch.randn(2, 3, 4, generator=generator())
    sigma = torch.rand(2, 3, generator=generator()) + 0.1
    out = joint(u, sigma)
    assert out.shape == u.shape
    torch.testing.assert_close(out[1, 2], joint(u[1, 2], sigma[1, 2]))
    torch.testing.assert_close(out[0, 1], joint(u[0, 1], sigma[0, 1].item()))
    torch.testing.assert_close(joint.denoise(u, sigma), u + sigma[..., None] ** 2 * out)
    assert joint(torch.zeros(0, 4), 1.0).shape == (0, 4)
    assert compose(chain(0), nonlinear)(torch.zeros(2, 0), 1.0).shape == (2, 0)


def test_states_that_do_not_fit_are_named() -> None:
    joint = compose(chain(4), nonlinear)
    with pytest.raises(ShapeError, match=r"expected a floating-point state \[\*batch, 4\]"):
        joint(torch.zeros(2, 5), 1.0)
    with pytest.raises(ShapeError, match="int64"):
        joint(torch.zeros(2, 4, dtype=torch.int64), 1.0)
    for half in (torch.float16, torch.bfloat16):
        with pytest.raises(ShapeError, match=rf"float32 or float64 state, .* {half}.*u\.float"):
            joint(torch.zeros(2, 4, dtype=half), 1.0)
    with pytest.raises(ShapeError, match="expected sigma"):
        joint(torch.zeros(2, 4), torch.ones(3))
    for sigma in (-1.0, float("nan")):
        with pytest.raises(ScoreError, match="a noise level sigma >= 0, got"):
            joint(torch.zeros(2, 4), sigma)
    first = moment_matching(joint, torch.zeros(2), lambda u: u[:, :2])
    for score in (joint, guided(joint, {}), first):
        with pytest.raises(ShapeError, match=r"\(4,\) has no batch axis: .* \[batch, 4\]"):
            samplers.sample(score, [2.0, 1.0], shape=(4,))
    with pytest.raises(ShapeError, match=r"a graph of states with channels has .*, \(3, 4\)"):
        samplers.sample(joint, [2.0, 1.0], shape=(2, 3, 4))
    with pytest.raises(ShapeError, match="start with the batch shape"):
        joint(torch.zeros(2, 4), 1.0, y=torch.ones(3, 1))
    with pytest.raises(ShapeError, match="as a tensor, got list"):
        joint([0.0] * 4, 1.0)
    with pytest.raises(PgmdiffError, match=r"instance of Marginal as rule, got the class"):
        compose(chain(4), nonlinear, rule=Marginal)  # type: ignore[arg-type]
    with pytest.raises(ScoreError, match=r"a rule such as Marginal\(\) .* got 'Marginal'"):
        compose(chain(4), nonlinear, rule="Marginal")  # type: ignore[arg-type]
    with pytest.raises(ScoreError, match="max_batch, an integer of at least 1"):
        compose(chain(4), nonlinear, max_batch=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_gradients(dtype: torch.dtype) -> None:
    joint = compose(chain(5), nonlinear, max_batch=3)
    u = torch.randn(2, 5, generator=generator(), dtype=dtype, requires_grad=True)
    out = joint(u, 0.5)
    assert out.dtype == dtype
    (gradient,) = torch.autograd.grad(out.square().sum(), u)
    assert gradient.isfinite().all()
    with torch.no_grad():
        assert not joint(u, 0.5).requires_grad


def test_gradients_are_right() -> None:
    joint = compose(tiles((6,), 3, 2), nonlinear, max_batch=2)
    u = torch.randn(2, 6, generator=generator(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: joint(v, 0.5), u)


def test_gradients_reach_the_models() -> None:
    weight = torch.ones((), requires_grad=True)
    joint = compose(chain(3), lambda x, sigma: -weight * x)
    joint(torch.ones(1, 3), 1.0).sum().backward()
    assert weight.grad is not None
    assert weight.grad.item() == pytest.approx(-3)


def test_jacobian_through_functorch_matches_the_composed_precision() -> None:
    from pgmdiff.gaussian import composed_precision

    q = ar1(5, 0.8)
    joint = compose(chain(5), node_scores(chain(5), q), check_finite=False)
    u = torch.zeros(1, 5, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda v: joint(v, 0.5))(u)[0, :, 0]
    torch.testing.assert_close(-jacobian, composed_precision(chain(5), q, 0.5))


# ---------------------------------------------------------------- conditions


def shifted(x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
    shift = condition.get("y", torch.zeros(len(x)))
    assert shift.shape[0] == len(x)
    return -(x - shift.reshape(len(x), *[1] * (x.ndim - 1)))


BARE = r"node 'f1' gets no condition, but 'f0', of the same model, gets \['y'\]"


def test_a_piece_without_a_condition_beside_others_of_its_model_is_noticed() -> None:
    """Where the call gives one, or the piece has a model of its own, nothing is missing."""
    u, conditions = torch.zeros(2, 3), {"f0": {"y": torch.tensor(5.0)}}
    joint = compose(chain(3), shifted, conditions=conditions)
    with pytest.warns(UserWarning, match=BARE):
        joint(u, 1.0)
    joint(u, 1.0, y=torch.zeros(2))
    scores = dict.fromkeys(["f0", "x0", "x1", "x2"], shifted) | {"f1": nonlinear}
    compose(chain(3), scores, conditions=conditions)(u, 1.0)
    both = dict.fromkeys(("f0", "f1"), conditions["f0"])
    compose(chain(3), shifted, conditions=both)(u, 1.0)
    with pytest.raises(ScoreError, match=r"guided: expected the conditions"):  # and no warning
        compose(chain(3), guided(shifted, {"y": 0.0}), conditions=conditions)(u, 1.0)


def test_conditions_per_node() -> None:
    graph = chain(3, (1,))
    joint = compose(graph, shifted, conditions={"f0": {"y": torch.tensor(5.0)}})
    with pytest.warns(UserWarning, match=BARE):
        out = joint(torch.zeros(2, 3), 1.0)
    assert out.tolist() == [[5, 5, 0], [5, 5, 0]]
    own = FactorGraph.from_scopes(
        {"f": ("a", "b"), "g": ("b", "c")}, conditions={"g": {"y": torch.tensor(3.0)}}
    )
    with pytest.warns(UserWarning, match="node 'f' gets no condition, but 'g'"):
        assert compose(own, shifted)(torch.zeros(1, 3), 1.0).tolist() == [[0, 3, 3]]
    both = compose(own, shifted, conditions={"f": {"y": torch.tensor(1.0)}})
    assert both(torch.zeros(1, 3), 1.0).tolist() == [[1, 4, 3]]


def test_nodes_with_equal_condition_structure_share_a_call() -> None:
    calls = []

    def score(x: Tensor, sigma: Tensor, prompt: dict | None = None) -> Tensor:
        calls.append(len(x))
        return -x

    conditions = {f"f{i}": {"prompt": {"embedding": torch.full((3,), i)}} for i in range(4)}
    conditions["f4"] = {"prompt": {"embedding": torch.zeros(5)}}
    compose(chain(6, (2,)), score, conditions=conditions)(torch.zeros(1, 12), 1.0)
    assert sorted(calls) == [1, 4, 4]  # four factors alike, one not, four variables


def test_call_time_conditions_reach_every_node_and_null_the_overlaps() -> None:
    u, y = torch.zeros(2, 3), torch.tensor([1.0, 2.0])
    assert compose(chain(3), shifted)(u, 1.0, y=y).tolist() == [[1, 1, 1], [2, 2, 2]]
    null = compose(chain(3), shifted, null_condition={"y": torch.tensor(0.0)})
    assert null(u, 1.0, y=y).tolist() == [[1, 2, 1], [2, 4, 2]]
    node = compose(
        chain(3),
        shifted,
        null_condition={"y": torch.tensor(0.0)},
        conditions={"x1": {"y": torch.tensor(7.0)}, "f0": {"y": torch.tensor(9.0)}},
    )
    assert node(u, 1.0, y=y).tolist() == [[9, 9 + 1 - 7, 1], [9, 9 + 2 - 7, 2]]


def test_conditions_follow_their_rows_through_chunks() -> None:
    conditions = {f"f{i}": {"y": torch.tensor(float(i))} for i in range(5)}
    u = torch.randn(3, 6, generator=generator())
    whole = compose(chain(6), shifted, conditions=conditions)(u, 1.0)
    for max_batch in (1, 2, 4, 7):
        chunked = compose(chain(6), shifted, conditions=conditions, max_batch=max_batch)
        torch.testing.assert_close(chunked(u, 1.0), whole)


def test_conditions_that_regions_share_are_stored_once() -> None:
    """One row per tensor that was given, for windows and for parts of two models that merge."""
    sea, sky, empty = torch.randn(3, 2, generator=generator(5))
    scopes = {f"f{i}": (f"x{i}", f"x{i + 1}") for i in range(6)}
    models = {f: "ab"[i % 2] for i, f in enumerate(scopes)} | {f"x{i}": "a" for i in range(7)}
    loose = FactorGraph.from_scopes(scopes, models=models)
    for graph, rows in ((tiles((1, 8, 8), (1, 4, 4), (0, 2, 2)), 2), (loose, 4)):
        pieces = enumerate(graph.regions.pieces)
        given = {
            name: {"text": (sea, sky)[i // 2 % 2], "scale": torch.tensor(1.0 + i)}
            for i, name in pieces
        }
        null = {"text": empty, "scale": torch.tensor(0.5)}

        def network(x: Tensor, sigma: Tensor, text: Tensor, scale: Tensor) -> Tensor:
            value = (scale * text.sum(dim=1)).reshape(-1, *[1] * (x.ndim - 1))
            text.zero_()
            return value * torch.ones_like(x)

        u, scores = torch.zeros(2, *graph.regions.event_shape), network
        if graph is loose:
            scores = {"a": network, "b": network}
        apart = {name: {w: t.clone() for w, t in each.items()} for name, each in given.items()}
        expected = compose(graph, scores, conditions=apart, null_condition=null)(u, 1.0)
        for max_batch in (None, 1, 3):
            options = {"null_condition": null, "max_batch": max_batch}
            joint = compose(graph, scores, conditions=given, **options)
            for _ in range(2):
                torch.testing.assert_close(joint(u, 1.0), expected)
        stored = [len(batch.condition["text"].values) for batch in joint.batches]
        assert stored == [rows, *[1] * (len(stored) - 1)]


def test_rules_with_covariances_name_a_device_without_float64(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph, q = chain(3), ar1(3, 0.5, torch.float32)
    joint = compose(graph, node_scores(graph, q), rule=Posterior(node_covariances(graph, q)))
    with meta_without_float64(monkeypatch), pytest.raises(ScoreError, match="'meta' does not have"):
        joint(torch.zeros(2, 3, device="meta"), 1.0)


def test_a_condition_for_no_node_is_named() -> None:
    with pytest.raises(GraphError, match="condition is given for 'f9', which is no region"):
        compose(chain(3), shifted, conditions={"f9": {}})


# ---------------------------------------------------------------- guilty nodes


def poisoned(node_value: float, bad: float):
    def score(x: Tensor, sigma: Tensor) -> Tensor:
        guilty = (x == node_value).reshape(len(x), -1).any(dim=1)
        return torch.where(guilty.reshape(-1, *[1] * (x.ndim - 1)), bad, -x)

    return score


class Faulty:
    """A standard normal score whose first log-densities, or scores, are NaN for some samples."""

    def __init__(self, kind: str, calls: int = 10**6) -> None:
        self.kind, self.left = kind, calls

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.spoiled("score", x, -x / (1 + sigma**2).reshape(-1, *[1] * (x.ndim - 1)))

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.spoiled("log-density", x, -x.square().reshape(len(x), -1).sum(dim=1))

    def spoiled(self, kind: str, x: Tensor, found: Tensor) -> Tensor:
        self.left -= kind == self.kind
        if kind == self.kind and self.left >= 0:
            found[(x > 5).reshape(len(x), -1).any(dim=1)] = float("nan")
        return found


@pytest.mark.parametrize("kind", ["score", "log-density"])
def test_a_nan_that_is_seen_once_is_no_overflow(kind: str) -> None:
    """The models are called again to find the guilty one, and then all of them are finite."""
    graph, q = chain(3), Gaussian(torch.zeros(3), torch.eye(3))
    u, levels = torch.ones(3, 3), torch.tensor([1.0, 2.0, 3.0])
    u[2, 2] = 6.0
    for calls, message in (
        (1, r"not finite at σ = 3, batch entry 2, and is finite when the same call"),
        (9, rf"{kind} of node 'f1' is not finite at σ = 3, batch entry 2"),
    ):
        faulty = {name: Faulty(kind, calls if name == "f1" else 0) for name in graph.regions.names}
        rule = Marginal() if kind == "score" else Consistent(node_covariances(graph, q))
        joint = compose(graph, faulty, rule=rule)
        with pytest.raises(ScoreError, match=message):
            (joint if kind == "score" else joint.log_density)(u, levels)


def test_what_a_joint_keeps_is_bounded_and_left_out_of_copies() -> None:
    joint = compose(chain(4), Gaussian(torch.zeros(2), torch.eye(2)), rule=Average())
    results = {n: joint(torch.ones(n, 4), 1.0) for n in range(1, 40)}
    assert len(joint._kept) <= 8
    again = pickle.loads(pickle.dumps(joint))
    assert not again._kept
    assert not again._placed
    assert all(torch.equal(again(torch.ones(n, 4), 1.0), s) for n, s in results.items())


def test_threads_share_a_joint() -> None:
    """More batch sizes and noise levels than are kept, on a graph with loops, bit for bit."""
    graph, q = cycle(4), Gaussian(torch.zeros(4), torch.eye(4) + 0.3)
    rule = Posterior(node_covariances(graph, q))
    jobs = [(n, 0.5 + 0.1 * k) for k in range(8) for n in range(1, 13)]

    def called(joint: Joint, job: tuple[int, float]) -> Tensor:
        return joint(torch.ones(job[0], 4), job[1])

    expected = list(map(partial(called, compose(graph, nonlinear, rule=rule)), jobs))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(partial(called, compose(graph, nonlinear, rule=rule)), jobs))
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("max_batch", [None, 2])
def test_nan_names_node_sigma_and_batch_entry(bad: float, max_batch: int | None) -> None:
    graph = chain(5, (2,))
    u = torch.randn(3, 10, generator=generator())
    u[1, 8] = 42.0  # the first element of x4, which only f3 sees
    joint = compose(graph, poisoned(42.0, bad), max_batch=max_batch)
    with pytest.raises(ScoreError, match=r"node 'f3' is not finite at σ = 0.25, batch entry 1"):
        joint(u, torch.tensor([1.0, 0.25, 3.0]))
    assert not compose(graph, poisoned(42.0, bad), check_finite=False)(u, 1.0).isfinite().all()


def test_a_broken_state_and_an_overflow_are_told_apart() -> None:
    u = torch.zeros(2, 3)
    u[1, 0] = float("nan")
    with pytest.raises(ScoreError, match="state itself is not finite at batch entry 1"):
        compose(chain(3), nonlinear)(u, 1.0)
    huge = compose(chain(3), lambda x, sigma: torch.full_like(x, 3e38) * (-1) ** x.ndim)
    with pytest.raises(ScoreError, match="overflows"):
        huge(torch.zeros(1, 3), 1.0)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda x, sigma: x.double(), "torch.float64"),
        (lambda x, sigma: x[:1], r"shape \(1, 4\)"),
        (lambda x, sigma: x.sum(), r"shape \(\)"),
        (lambda x, sigma: None, "got NoneType"),
        (lambda x, sigma: x.to("meta"), "on meta"),
    ],
)
def test_wrong_shape_dtype_or_device_names_the_node(score, message: str) -> None:
    joint = compose(chain(4, (2,)), dict.fromkeys(("f0", "f1", "f2", "x1", "x2"), score))
    with pytest.raises(ScoreError, match=message) as error:
        joint(torch.zeros(2, 8), 0.5)
    assert "node 'f0' to 'f2' at σ = 0.5" in str(error.value)


# ---------------------------------------------------------------- rules


def test_average_is_the_mean_over_pieces() -> None:
    graph = tiles((8,), 4, 2)
    u = torch.randn(1, 8, generator=generator(), dtype=torch.float64)
    out = compose(graph, nonlinear, rule=Average())(u, 1.0)
    windows = [nonlinear(u[:, i : i + 4], torch.ones(1)) for i in (0, 2, 4)]
    expected = torch.zeros(1, 8, dtype=torch.float64)
    for i, window in zip((0, 2, 4), windows, strict=True):
        expected[:, i : i + 4] += window / torch.tensor(
            [1 if i == 0 else 2] * 2 + [1 if i == 4 else 2] * 2
        )
    torch.testing.assert_close(out, expected)


def test_average_gives_isolated_variables_their_own_score() -> None:
    alone = FactorGraph.from_scopes({"f": ("a", "b")}, {"a": (), "b": (), "z": ()})
    out = compose(alone, lambda x, sigma: -x, rule=Average())(torch.ones(1, 3), 1.0)
    assert out.tolist() == [[-1, -1, -1]]


def test_average_equals_marginal_without_overlap() -> None:
    graph = tiles((8,), 4, 0)
    u = torch.randn(2, 8, generator=generator())
    a, m = (compose(graph, nonlinear, rule=rule)(u, 1.0) for rule in (Average(), Marginal()))
    torch.testing.assert_close(a, m)


def test_fitted_overlaps_stand_in_for_a_model() -> None:
    """A Gaussian fitted to overlap data replaces a missing model."""
    q, graph = ar1(12, 0.8), tiles((12,), 4, 2)
    data = q.sample(200_000, generator())
    fitted = Gaussian.fit(data[:, :2])
    window = q.marginal(torch.arange(4))
    joint = compose(graph, {(4,): window.score, (2,): fitted.score})
    exact = compose(graph, node_scores(graph, q))
    u = q.sample(10, generator(1))
    difference = (joint(u, 0.5) - exact(u, 0.5)).abs().max()
    assert difference < 0.05


def test_another_device_agrees_with_the_cpu(there: torch.device) -> None:
    graph = tiles((2, 12, 8), (2, 4, 4), (0, 2, 2), (False, True, False))
    u = torch.randn(3, 2, 12, 8, generator=generator())
    joint = compose(graph, nonlinear, max_batch=7)
    found = joint(u.to(there), 0.7).cpu()
    torch.testing.assert_close(found, joint(u, 0.7), rtol=1e-5, atol=1e-5)


def test_a_joint_compiles_before_its_first_call() -> None:
    q = ar1(4, 0.5)
    u = q.sample(2, 0)
    fresh = compose(chain(4), node_scores(chain(4), q))
    torch.testing.assert_close(torch.compile(fresh, backend="eager")(u, 1.0), fresh(u, 1.0))
    torch.compiler.reset()
    whole = compose(chain(4), node_scores(chain(4), q))
    with pytest.raises(Exception, match="call it once"):
        torch.compile(whole, backend="eager", fullgraph=True)(u, 1.0)
    torch.compiler.reset()
    expected = whole(u, 1.0)
    compiled = torch.compile(whole, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(u, 1.0), expected)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions take notes from Python 3.11 on")
def test_what_a_model_raises_names_the_node() -> None:
    def broken(x: Tensor, sigma: Tensor) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    joint = compose(chain(3), {"f0": nonlinear, "f1": broken, "x1": nonlinear})
    with pytest.raises(RuntimeError, match="mat1 and mat2") as raised:
        joint(torch.zeros(5, 3), 1.0)
    (note,) = raised.value.__notes__
    assert "node 'f1'" in note
    assert "(5, 2) at σ = 1, batch entry 0 on" in note
    with pytest.raises(RuntimeError) as raised:
        compose(chain(3), broken, max_batch=None)(torch.zeros(5, 3), 1.0)
    (note,) = raised.value.__notes__
    assert "node 'f0' and of 1 other" in note, "which of a batch it was is not known"


def test_conditions_are_told_apart_by_value_not_by_repr() -> None:
    class Setting:
        def __init__(self, value: float) -> None:
            self.value = value

        def __repr__(self) -> str:
            return "Setting()"

    joint = compose(
        FactorGraph.from_scopes({"f": ("x",), "h": ("z",)}),
        lambda x, sigma, c=None: x * 0 + (0 if c is None else c.value),
        conditions={"f": {"c": Setting(0.0)}, "h": {"c": Setting(7.0)}},
    )
    assert joint(torch.zeros(1, 2), 1.0).tolist() == [[0, 7]]


def test_conditions_add_to_the_graphs_own() -> None:
    seen = []

    def score(x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
        seen.append({name: value.flatten().tolist() for name, value in condition.items()})
        return -x

    one, two = torch.ones(1), 2 * torch.ones(1)
    own = FactorGraph.from_scopes({"f": ("x", "y")}, conditions={"f": {"a": one, "b": one}})
    compose(own, score, conditions={"f": {"b": two}})(torch.zeros(1, 2), 1.0)
    assert seen == [{"a": [1.0], "b": [2.0]}]


def test_a_joint_used_under_inference_mode_still_serves_autograd() -> None:
    joint = compose(tiles((16,), 8, 4), lambda x, sigma: -x)
    with torch.inference_mode():
        joint(torch.zeros(1, 16), 1.0)
    u = torch.zeros(1, 16, requires_grad=True)
    joint(u, 1.0).sum().backward()
    assert u.grad is not None
    assert u.grad.tolist() == [[-1.0] * 16]


def test_methods_of_one_object_share_a_call() -> None:
    pair, one = ar1(2, 0.8), ar1(1, 0.8)
    joint = compose(chain(3), {"f0": pair.score, "f1": pair.score, "x1": one.score})
    assert sorted(len(batch.group) for batch in joint.batches) == [1, 2]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: compose(chain(4), nonlinear).denoise(np.zeros((2, 4)), 1.0), "got ndarray"),
        (lambda: compose(chain(4), nonlinear, max_batch=2.5), "an integer of at least 1"),
        (
            lambda: compose(chain(4), nonlinear, conditions={"f11": {}}),
            "'f11', which is no region.*Did you mean 'f1'.*`.factors`",
        ),
    ],
)
def test_bad_input_is_explained_in_one_line(wrong, message: str) -> None:
    with pytest.raises(PgmdiffError, match=message) as raised:
        wrong()
    assert "\n" not in str(raised.value)


def test_a_condition_of_the_call_that_reaches_no_node_is_told() -> None:
    graph = chain(3)

    def score(x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        return -x * (1 + label.to(x)).reshape(-1, *[1] * (x.ndim - 1))

    own = {name: {"label": torch.tensor(1)} for name in ("f0", "f1", "x1")}
    u, label = torch.ones(2, 3), torch.tensor([0, 3])
    every = compose(graph, score, conditions=own)
    with pytest.warns(UserWarning, match="'label' given at the call reaches no node"):
        assert torch.equal(every(u, 1.0, label=label), every(u, 1.0))
    del own["f0"]
    compose(graph, score, conditions=own)(u, 1.0, label=label)
