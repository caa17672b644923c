"""The law of fields: a joint crops a field as `graph.elements(name)` would by hand."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from pgmdiff import (
    Consistent,
    FactorGraph,
    Gaussian,
    Posterior,
    RegionGraph,
    ScoreError,
    ShapeError,
    check_consistency,
    compose,
    field,
    from_denoiser,
    graphs,
    karras,
    sample,
    tiles,
)
from pgmdiff.composition import Field
from pgmdiff.conditioning import Mask, moment_matching, replacement
from pgmdiff.conditioning.matching import Tweedie
from pgmdiff.gaussian import node_covariances
from pgmdiff.samplers import Heun
from pgmdiff.scores import denoise, guided, scheduled

TREE = FactorGraph.from_scopes(
    {"f": ("a", "b"), "g": ("b", "c"), "h": ("c", "a", "d")},
    {"a": (3,), "b": (2,), "c": (3,), "d": ()},
)
GRAPHS: dict[str, Any] = {
    "chain": graphs.chain(5),
    "vectors": TREE,
    "images": graphs.chain(3, shape=(2, 2, 3)),
    "open": tiles((12,), 4, 2),
    "periodic": tiles((12,), 4, 2, periodic=True),
    "shifted": tiles((2, 11), (2, 4), (0, 1), remainder="shift"),
    "torus": tiles(
        (3, 8, 6), (3, 4, 3), (0, 2, 1), periodic=(False, True, False), remainder="shift"
    ),
    "crossed": graphs.time_by_parts(8, 4, 2, {"legs": [0, 1, 2], "torso": [2, 3, 4]}),
    "cubemap": graphs.cubemap(4, channels=2),
    "paper": graphs.cubemap(3, 3),
    "nested": graphs.nested_cubemap(3, channels=2),
}
LENGTHS: dict[str, dict[int, int]] = {  # axes that all regions span, and other lengths for them
    "shifted": {0: 5},
    "torus": {0: 1},
    "cubemap": {1: 4},
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def score(x: Tensor, sigma: Tensor, f: Tensor, **more: Tensor) -> Tensor:
    """A function of x and of every value of the field, at its place: f `[rows, *K, *shape]`."""
    weights = torch.linspace(1, 2, f[0].numel()).to(x).reshape(f.shape[1:])
    bent = (f * (1 + f) * weights).reshape(len(x), -1, *f.shape[1 + f.ndim - x.ndim :]).sum(dim=1)
    for axis in range(1, x.ndim):
        if bent.shape[axis] != x.shape[axis]:  # the field's own channels
            bent = bent.sum(dim=axis, keepdim=True)
    return (bent - x) * (1 + x.cos()) / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2)


def by_hand(regions: RegionGraph, name: Any, f: Tensor) -> Tensor:
    """The crop of one region, `[*lead, *shape]`, from f `[*lead, *F]`, place by place."""
    elements, event = regions.elements(name), regions.event_shape
    lead = f.ndim - len(event)
    places = list(torch.unravel_index(elements, event))
    for axis, (old, new) in enumerate(zip(event, f.shape[lead:], strict=True)):
        if old != new:  # regions of these graphs hold channels on their first axis
            assert (places[axis] == torch.arange(old).reshape(-1, *[1] * (elements.ndim - 1))).all()
            places = [p[:1].expand(new, *p.shape[1:]) for p in places]
            places[axis] = torch.arange(new).reshape(-1, *[1] * (elements.ndim - 1))
    return f[(*[slice(None)] * lead, *places)]


def reference(graph: Any, u: Tensor, sigma: Tensor, f: Tensor) -> Tensor:
    """Σ_r c_r A_rᵀ s(A_r u, σ, A_r f) for u `[B, *event]` and f `[B, *K, *F]`."""
    regions = graph.regions
    total = torch.zeros(len(u), regions.n_elements, dtype=u.dtype)
    for name, count in regions.counting_numbers().items():
        if count:
            elements = regions.elements(name)
            x = u.flatten(1)[:, elements]
            values = score(x, sigma, by_hand(regions, name, f)).reshape(len(u), -1)
            total[:, elements.flatten()] += count / regions.denominator * values
    return total.reshape(u.shape)


def fields_of(name: str, *batch: int) -> dict[str, Tensor]:
    event = GRAPHS[name].regions.event_shape
    own = [LENGTHS.get(name, {}).get(axis, size) for axis, size in enumerate(event)]
    made = {"plain": draw(*batch, *event, seed=1), "channels": draw(*batch, 2, 3, *event, seed=2)}
    if name in LENGTHS:
        made |= {"own": draw(*batch, *own, seed=3), "both": draw(*batch, 2, *own, seed=4)}
    return made


def case(name: str, *batch: int) -> tuple[Any, Tensor, Tensor]:
    graph = GRAPHS[name]
    sigma = torch.linspace(0.5, 2, max(1, int(torch.tensor(batch).prod())), dtype=torch.float64)
    return graph, draw(*batch, *graph.regions.event_shape), sigma.reshape(batch)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_field_is_cropped_as_by_hand(name: str) -> None:
    graph, u, sigma = case(name, 3)
    for kind, f in fields_of(name, 3).items():
        expected = reference(graph, u, sigma, f)
        for max_batch in (None, 1, 2, 5):
            joint = compose(graph, score, max_batch=max_batch)
            torch.testing.assert_close(joint(u, sigma, f=field(f)), expected, msg=kind)
        both = joint(u.reshape(3, 1, *u.shape[1:]), sigma[:, None], f=field(f[:, None]))
        torch.testing.assert_close(both[:, 0], expected)
        torch.testing.assert_close(joint(u[1], sigma[1], f=field(f[1])), expected[1])
        assert joint(u[:0], 1.0, f=field(f[:0])).shape == u[:0].shape
        same = reference(graph, u, sigma, f[:1].expand_as(f))
        one = f[0]
        node = {n: {"f": field(one)} for n in graph.regions.names}
        crops = {n: {"f": by_hand(graph.regions, n, one)} for n in graph.regions.names}
        given = {"f": field(one)}, node, crops
        for conditions in given:
            for max_batch in (None, 2):
                at_compose = compose(graph, score, conditions=conditions, max_batch=max_batch)
                torch.testing.assert_close(at_compose(u, sigma), same, msg=kind)
        calls = [len(compose(graph, score, conditions=c).batches) for c in (node, {})]
        assert calls[0] == calls[1]


@pytest.mark.parametrize("name", ["open", "torus"])
def test_windows_and_indices_that_are_too_many_to_be_kept(name: str, monkeypatch: Any) -> None:
    graph, u, sigma = case(name, 3)
    monkeypatch.setattr("pgmdiff.graphs.groups.CHUNK", 7)
    monkeypatch.setattr("pgmdiff.composition.evaluate.CHUNK", 7)
    for f in fields_of(name, 3).values():
        joint = compose(graph, score, max_batch=4)
        torch.testing.assert_close(joint(u, sigma, f=field(f)), reference(graph, u, sigma, f))
        assert not joint._kept


@pytest.mark.filterwarnings("ignore:Joint. the condition 'f' given at the call reaches no node")
def test_who_receives_which_field() -> None:
    """Given at call time < to all nodes < null_condition < a node's own."""
    graph, (call, every, null, own) = graphs.chain(4), draw(4, 4)
    seen: dict[Any, Tensor] = {}

    def noted(name: Any) -> Callable[..., Tensor]:
        def score(x: Tensor, sigma: Tensor, f: Any) -> Tensor:
            seen[name] = f["g"] if isinstance(f, dict) else f
            return -x

        return score

    names = [n for n, c in graph.regions.counting_numbers().items() if c]
    scores = {name: noted(name) for name in names}
    u, given = draw(1, 4), {"f": field(call[None])}
    mine = {"f1": {"f": {"g": field(own)}}}
    for conditions, empty, expected in [
        ({}, None, dict.fromkeys(names, call)),
        ({"f": field(every)}, None, dict.fromkeys(names, every)),
        ({}, null, {n: call if n in graph.factors else null for n in names}),
        ({"f": field(every)}, null, {n: every if n in graph.factors else null for n in names}),
        ({"f": field(every), **mine}, None, {**dict.fromkeys(names, every), "f1": own}),
        ({"f": field(every), "x1": {"f": field(own)}}, null,
         {n: every if n in graph.factors else null for n in names} | {"x1": own}),
    ]:  # fmt: skip
        nulls = None if empty is None else {"f": field(empty)}
        compose(graph, scores, conditions=conditions, null_condition=nulls)(u, 1.0, **given)
        for name in names:
            torch.testing.assert_close(seen[name][0], expected[name][graph.regions.elements(name)])


def test_it_is_stored_once_and_nobody_gets_its_memory() -> None:
    strip = tiles((2, 40), (2, 8), (0, 4))
    f = draw(3, 40)
    before = f.clone()
    sizes = []

    def greedy(x: Tensor, sigma: Tensor, f: Tensor) -> Tensor:
        sizes.append(f.numel())
        f.zero_()
        return -x

    joint = compose(strip, greedy, conditions={"f": field(f)}, max_batch=2)
    assert len({id(batch.condition["f"]) for batch in joint.batches}) == 1
    assert joint.batches[0].condition["f"].values.data_ptr() == f.data_ptr()
    joint(draw(5, 2, 40), 1.0)
    compose(strip, greedy, max_batch=2)(draw(1, 2, 40), 1.0, f=field(f[None]))
    assert max(sizes) == 2 * 3 * 8
    assert torch.equal(f, before)


def test_dtypes_follow_the_state_where_they_can() -> None:
    strip, seen = tiles((12,), 4, 2), []

    def score(x: Tensor, sigma: Tensor, **f: Tensor) -> Tensor:
        seen.append({word: value.dtype for word, value in f.items()})
        return -x

    given = {"a": torch.ones(12).double(), "b": torch.ones(12).long(), "c": torch.ones(12) > 0}
    expected = {"a": torch.float32, "b": torch.int64, "c": torch.bool}
    compose(strip, score, conditions={w: field(f) for w, f in given.items()})(torch.ones(2, 12), 1)
    compose(strip, score)(torch.ones(1, 12), 1.0, **{w: field(f[None]) for w, f in given.items()})
    assert seen == [expected] * 4


@pytest.mark.parametrize("name", ["vectors", "torus", "cubemap"])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_gradients_reach_the_field(name: str, checkpoint: bool) -> None:
    graph, u, sigma = case(name, 2)
    for f in fields_of(name, 2).values():
        f.requires_grad_()
        direction = draw(*u.shape, seed=9)
        (expected,) = torch.autograd.grad((reference(graph, u, sigma, f) * direction).sum(), f)
        joint = compose(graph, score, max_batch=3, checkpoint=checkpoint)
        found = joint(u, sigma, f=field(f))
        torch.testing.assert_close(torch.autograd.grad((found * direction).sum(), f)[0], expected)
        one = f[0].detach().float().requires_grad_()
        joint = compose(graph, score, conditions={"f": field(one)}, checkpoint=checkpoint)
        with torch.inference_mode():
            joint(u, sigma)
        for _ in range(2):  # what a joint keeps serves several graphs of autograd
            (found,) = torch.autograd.grad((joint(u, sigma) * direction).sum(), one)
        wide = one.detach().double().requires_grad_()
        whole = reference(graph, u, sigma, wide.expand(2, *wide.shape))
        (expected,) = torch.autograd.grad((whole * direction).sum(), wide)
        torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["torus", "cubemap"])
def test_another_device_agrees_with_the_cpu(name: str, there: torch.device) -> None:
    """A field is moved to the state, and once if it is given to `compose`."""
    graph, u, sigma = case(name, 2)
    for f in fields_of(name, 2).values():
        expected = compose(graph, score)(u, sigma, f=field(f))
        found = compose(graph, score, max_batch=7)(u.to(there), sigma.to(there), f=field(f))
        torch.testing.assert_close(found.cpu(), expected)
        joint = compose(graph, score, conditions={"f": field(f[0])})
        torch.testing.assert_close(joint(u.to(there), sigma.to(there)).cpu(), joint(u, sigma))
        kept = joint._on(u.flatten(1).to(there))
        assert len({batch.condition["f"].values.data_ptr() for batch in kept}) == 1


def test_a_field_compiles() -> None:
    graph, u, sigma = case("torus", 2)
    f = fields_of("torus", 2)["own"]
    joint = compose(graph, score)
    expected = joint(u, sigma, f=field(f))
    whole = torch.compile(lambda u, f: joint(u, sigma, f=field(f)), backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(u, f), expected)


# ---------------------------------------------------------------- through what is around a joint

SMOOTH, LAGS = graphs.chain(4), (torch.arange(4)[:, None] - torch.arange(4)).abs()
Q = Gaussian(torch.zeros(4).double(), 0.8 ** LAGS.double())
COVARIANCES = node_covariances(SMOOTH, Q)


def dense(x: Tensor, sigma: Tensor, f: Tensor) -> Tensor:
    """The score of the data whose mean is the field."""
    return Q.score(x - f, sigma)


def model(name: Any) -> Any:
    q = Q.marginal(SMOOTH.regions.elements(name))
    return lambda x, sigma, f: q.score(x - f, sigma)


MODELS = {name: model(name) for name in (*SMOOTH.factors, *SMOOTH.variables)}


def joint_of(rule: Any = None, **options: Any) -> Any:
    return compose(SMOOTH, MODELS, rule=rule or Posterior(COVARIANCES), **options)


U, F, SIGMA = draw(3, 4), draw(3, 4, seed=1), torch.tensor([0.5, 1.0, 2.0]).double()
AROUND: dict[str, Callable[[Any], Any]] = {
    "itself": lambda score: score,
    "from_denoiser": lambda score: from_denoiser(partial(denoise, score)),
    "a function": lambda score: lambda x, sigma, **c: score(x, sigma, **c),
    "scheduled": lambda score: scheduled(score, {"f": lambda f, sigma: f}),
    "replacement": lambda score: replacement(score, U[0], Mask(U[0] > 0)),
    "matching": lambda score: moment_matching(score, U[0], Mask(U[0] > 0), Tweedie(), noise=0.1),
}


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("rule", [Posterior(COVARIANCES), Consistent(COVARIANCES)], ids=repr)
def test_it_passes_through_scores_around_a_joint(name: str, rule: Any) -> None:
    around, joint = AROUND[name], joint_of(rule)
    expected = around(dense)(U, SIGMA, f=F)
    for inner in (joint, joint.remembering()):
        torch.testing.assert_close(around(inner)(U, SIGMA, f=field(F)), expected)
    given = partial(joint, f=field(F))
    torch.testing.assert_close(around(lambda x, s, **c: given(x, s))(U, SIGMA, f=F), expected)


def test_guidance_in_and_around_a_joint() -> None:
    w, empty = torch.tensor([0.5, 1.0, 4.0]).double(), draw(4, seed=2)
    expected = (1 - w[:, None]) * dense(U, SIGMA, 0 * F) + w[:, None] * dense(U, SIGMA, F)
    within = {name: guided(score, {"f": 0.0}) for name, score in MODELS.items()}
    joint = compose(SMOOTH, within, rule=Posterior(COVARIANCES))
    torch.testing.assert_close(joint(U, SIGMA, f=field(F), guidance=w), expected)
    around = guided(joint_of(), {"f": field(empty)})
    expected = (1 - w[:, None]) * dense(U, SIGMA, empty) + w[:, None] * dense(U, SIGMA, F)
    torch.testing.assert_close(around(U, SIGMA, f=field(F), guidance=w), expected)
    around = guided(joint_of(), {"f": empty})
    torch.testing.assert_close(around(U, SIGMA, f=field(F), guidance=w), expected)
    around = guided(joint_of(), {"f": 0.0})
    expected = (1 - w[:, None]) * dense(U, SIGMA, 0 * F) + w[:, None] * dense(U, SIGMA, F)
    torch.testing.assert_close(around(U, SIGMA, f=field(F), guidance=w), expected)


def test_samples_follow_their_own_fields(tmp_path: Any) -> None:
    sigmas, options = karras(6, 0.1, 10.0), {"shape": (3, 4), "solver": Heun(), "generator": 0}
    options |= {"dtype": torch.float64}
    for rule in (Posterior(COVARIANCES), Consistent(COVARIANCES)):
        joint = joint_of(rule, max_batch=2)
        found = [
            sample(partial(joint, f=field(F)), sigmas, run=run, **options)
            for run in (None, tmp_path / repr(rule), tmp_path / repr(rule))
        ]
        expected = sample(partial(dense, f=F), sigmas, **options)
        for samples in found:
            torch.testing.assert_close(samples, expected)


def test_consistency_of_models_with_a_field() -> None:
    means = draw(400, 4, seed=3)
    data = means + Q.sample(400, 0)
    for given in ({"f": field(means)}, {"conditions": {"f": field(means[0])}}):
        clean = data if "f" in given else Q.sample(400, 0) + means[0]
        found = check_consistency(SMOOTH, MODELS, clean, (0.3, 1.0), generator=0, **given)
        assert found.consistent
    other = field(means.flip(0))
    assert not check_consistency(SMOOTH, MODELS, data, (0.3, 1.0), generator=0, f=other).consistent


# ---------------------------------------------------------------- what does not fit is named


def test_fields_that_do_not_fit_are_named() -> None:
    strip = tiles((3, 8, 20), (3, 8, 8), (0, 0, 4))
    square = tiles((3, 8, 20), (3, 4, 8), (0, 0, 4))
    joint, u = compose(strip, score), torch.zeros(2, 3, 8, 20)
    nested = graphs.nested_cubemap(2)
    for call, error, message in [
        (lambda: field([1.0]), ShapeError, "field: expected a tensor .*, got list"),
        (lambda: joint(u, 1.0, f=field(u[0])), ShapeError,
         r"Joint: the condition 'f': .* \[2, \*channels, 3, 8, 20\], .* got \(3, 8, 20\)"),
        (lambda: joint(u, 1.0, f=field(u[:, 0])), ShapeError, "a map without the state's channel"),
        (lambda: joint(u, 1.0, f={"g": field(u[..., :19])}), ShapeError,
         r"Joint: the condition 'f': .* 8, 20\], got \[\.\.\., 3, 8, 19\].*\(3, 8, 8\)"),
        (lambda: compose(strip, score, conditions={"low": field(u[0, 0])}), ShapeError,
         r"compose: the condition 'low': .*without a batch axis, got \(8, 20\)"),
        (lambda: compose(square, score, null_condition={"low": field(u[0, :, :5])}), ShapeError,
         r"compose: the condition 'low': .*\[\.\.\., 3, 5, 20\].*do not span axis 1. Resize"),
        (lambda: compose(nested, score, conditions={"F": {"f": field(draw(1))}}), ShapeError,
         "condition 'f'"),
        (lambda: guided(joint, {"f": {}}, guidance=2)(u, torch.ones(2), f=field(u)), ScoreError,
         r"guided: the null of 'f' .*Field\(\[2, 3, 8, 20\] float32\); got \{\}"),
        (lambda: compose(strip, guided(score, {"f": field(u)}, guidance=2))(u, 1.0, f=field(u)),
         ScoreError, r"guided: the null of 'f' .*got Field\("),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            call()


def test_a_field_is_brief() -> None:
    assert repr(field(torch.ones(2, 3))) == "Field([2, 3] float32)"
    assert isinstance(field(F), Field)
