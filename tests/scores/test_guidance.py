import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from pgmdiff import Consistent, ScoreError, ShapeError, compose, gaussian
from pgmdiff.graphs import chain, tiles
from pgmdiff.samplers import sample
from pgmdiff.scores.guidance import guided, interpolated, scheduled, slerp
from tests.helpers import ar1, check_compiles_and_waits_for_nothing

EMPTY = torch.zeros(2)
X, SIGMA = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), torch.ones(3)


def towards(x, sigma, text):
    """The score of a Gaussian whose mean is the condition."""
    return (text - x) / (1 + sigma[:, None] ** 2)


def test_guidance_extrapolates_each_row_by_its_own_scale() -> None:
    text = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    w = torch.tensor([0.0, 1.0, 5.0])
    found = guided(towards, {"text": EMPTY})(X, SIGMA, text=text, guidance=w)
    torch.testing.assert_close(found, towards(X, SIGMA, w[:, None] * text))
    calls = []

    def counted(x, sigma, text):
        calls.append(len(x))
        return towards(x, sigma, text)

    guided(counted, {"text": EMPTY})(X, SIGMA, text=text)
    guided(counted, {"text": EMPTY}, guidance=2.0)(X, SIGMA, text=text)
    assert calls == [3, 3, 3], "one without guidance, two with it, never more rows than given"


def test_every_node_has_its_own_scale() -> None:
    graph = chain(3)
    texts = interpolated(("f0", "f1"), "text", torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    scales = {"f0": torch.tensor(2.0), "f1": torch.tensor(7.0)}
    conditions = {name: {**texts[name], "guidance": scales[name]} for name in texts}
    pair = guided(towards, {"text": EMPTY})
    single = lambda x, sigma, text: -x / (1 + sigma**2)  # noqa: E731
    scores = {"f0": pair, "f1": pair, "x1": single}
    u = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    joint = compose(graph, scores, conditions=conditions, null_condition={"text": EMPTY})
    left = towards(u[:, :2], torch.ones(4), torch.tensor([2.0, 0.0]))
    right = towards(u[:, 1:], torch.ones(4), torch.tensor([0.0, 7.0]))
    expected = torch.stack([left[:, 0], left[:, 1] + right[:, 0] + u[:, 1] / 2, right[:, 1]], dim=1)
    torch.testing.assert_close(joint(u, 1.0), expected)


def test_conditions_that_null_does_not_name_are_in_both_branches() -> None:
    def network(x, sigma, text, hint, added):
        return towards(x, sigma, text + 2 * hint) * (1 + added["size"]) + added["style"]

    text, hint, size, style = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(2))
    given = {"text": text, "hint": hint, "added": {"size": size, "style": style}}
    null = {"text": EMPTY + 0.5, "added": {"style": torch.tensor([1.0, -1.0])}}
    found = guided(network, null, guidance=3.0)(X, SIGMA, **given)
    without = network(X, SIGMA, null["text"], hint, {"size": size, **null["added"]})
    torch.testing.assert_close(found, without + 3 * (network(X, SIGMA, **given) - without))


def test_every_row_and_every_node_may_have_a_null_of_its_own() -> None:
    text, other = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(3))
    score = guided(towards, {"text": EMPTY}, guidance=3.0)
    expected = 3 * towards(X, SIGMA, text) - 2 * towards(X, SIGMA, other)
    torch.testing.assert_close(score(X, SIGMA, text=text, null={"text": other}), expected)
    one = score(X, SIGMA, text=text, null={"text": other[:, 0]})
    torch.testing.assert_close(one, score(X, SIGMA, text=text, null={"text": other[:, :1]}))
    conditions = {
        name: {"text": text[i], "null": {"text": other[i]}} for i, name in enumerate(("f0", "f1"))
    }
    null, u = {"text": EMPTY}, torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    scores = {"f0": score, "f1": score, "x1": lambda x, sigma, text: -x / (1 + sigma**2)}
    expected = torch.zeros(4, 3)
    for i in (0, 1):
        part, ones = u[:, i : i + 2], torch.ones(4)
        own = 3 * towards(part, ones, text[i]) - 2 * towards(part, ones, other[i])
        expected[:, i : i + 2] += own
    expected[:, 1] += u[:, 1] / 2
    for max_batch in (None, 1, 3):
        joint = compose(
            chain(3), scores, conditions=conditions, null_condition=null, max_batch=max_batch
        )
        torch.testing.assert_close(joint(u, 1.0), expected)


@pytest.mark.parametrize("max_batch", [1, 2, 3, 8])
def test_no_call_has_more_rows_than_max_batch(max_batch: int) -> None:
    rows, strip = [], tiles((1, 2, 10), (1, 2, 4), (0, 0, 2))

    def network(x, sigma, text):
        rows.append(len(x))
        return x * text[:, :1, None, None] - x

    followed = {"text": torch.full((2,), 0.5), "guidance": torch.tensor(3.0)}
    given = dict.fromkeys(strip.pieces, followed)
    options = {"conditions": given, "null_condition": {"text": EMPTY}}
    score, u = guided(network, {"text": EMPTY}), torch.ones(2, 1, 2, 10)
    expected = compose(strip, score, **options)(u, 1.0)
    rows.clear()
    torch.testing.assert_close(
        compose(strip, score, **options, max_batch=max_batch)(u, 1.0), expected
    )
    assert max(rows) <= max_batch


@pytest.mark.parametrize("guidance", [2.0, torch.tensor([0.0, 1.0, 5.0])])
def test_guidance_compiles_whole_and_waits_for_nothing(guidance: float | torch.Tensor) -> None:
    network = lambda x, sigma, text, grey: towards(x, sigma, text) + grey  # noqa: E731
    score = guided(network, {"text": EMPTY, "grey": 0.0})
    given = {"text": X.cos(), "grey": X.sin(), "guidance": guidance}
    check_compiles_and_waits_for_nothing(score, X, SIGMA, **given, null={"text": X.tan()})


def test_conditions_follow_sigma() -> None:
    text = torch.ones(3, 2)
    interval = {"guidance": lambda w, s: torch.where((s > 0.3) & (s < 5), w, 1.0)}
    score = scheduled(guided(towards, {"text": EMPTY}), interval)
    sigma, w = torch.tensor([0.1, 1.0, 9.0]), torch.full((3,), 4.0)
    found = score(X, sigma, text=text, guidance=w)
    expected = towards(X, sigma, torch.tensor([1.0, 4.0, 1.0])[:, None] * text)
    torch.testing.assert_close(found, expected)


def test_slerp_keeps_to_the_sphere() -> None:
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    for t in (0.0, 0.25, 0.5, 1.0):
        angle = t * math.pi / 2
        expected = 3 * torch.tensor([math.cos(angle), math.sin(angle)])
        torch.testing.assert_close(slerp(a, b, t), expected)
    torch.testing.assert_close(slerp(a, 2 * a, 0.5), 1.5 * a)
    assert slerp(a, -a, 0.5).isfinite().all()
    assert slerp(torch.zeros(2), a, 0.5).isfinite().all()
    many = slerp(a.expand(5, 2), b.expand(5, 2), torch.linspace(0, 1, 5))
    torch.testing.assert_close(many.norm(dim=1), torch.full((5,), 3.0))
    names = list(interpolated(["p", "q", "r"], "text", a, b).values())
    torch.testing.assert_close(names[1]["text"], 3 * torch.tensor([0.5, 0.5]).sqrt())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("opposite", [False, True])
def test_slerp_is_that_of_float64_up_to_the_rounding_of_its_dtype(
    dtype: torch.dtype, opposite: bool
) -> None:
    """At all angles, to those where it is linear, of vectors of all lengths."""
    a, away = torch.randn(2, 64, 5, generator=torch.Generator().manual_seed(1)).double()
    angles = torch.logspace(-6, 0, 64).double()[:, None]
    b = (angles * away + (-a if opposite else a)).to(dtype)
    a, t = a.to(dtype), torch.linspace(0, 1, 64)
    for scale in (1e-15, 1.0, 1e15):
        exact = slerp((scale * a).double(), (scale * b).double(), t.double())
        found = slerp(scale * a, scale * b, t)
        assert found.dtype == dtype
        torch.testing.assert_close(found, exact.to(dtype), rtol=1e-5, atol=1e-6 * scale)
    mixed = slerp(a, b.double(), t)
    assert mixed.dtype == torch.float64


def test_slerp_has_gradients_where_it_is_straight() -> None:
    for b in (torch.tensor([1.0, 0.0]), torch.tensor([-2.0, 0.0]), torch.tensor([1.0, 1e-5])):
        a = torch.tensor([1.0, 0.0], requires_grad=True)
        (gradient,) = torch.autograd.grad(slerp(a, b, 0.3).sum(), a)
        torch.testing.assert_close(gradient, torch.full((2,), 0.7))


def test_conditions_may_be_trees() -> None:
    tree, null = {"a": torch.ones(3, 2), "b": torch.zeros(3, 1)}, {"a": EMPTY, "b": torch.ones(1)}
    both = lambda x, sigma, text: towards(x, sigma, text["a"]) * (1 + text["b"])  # noqa: E731
    found = guided(both, {"text": null}, guidance=2.0)(X, SIGMA, text=tree)
    expected = 2 * towards(X, SIGMA, 1.0) - 2 * towards(X, SIGMA, 0.0)
    torch.testing.assert_close(found, expected)


def test_bad_conditions_are_named() -> None:
    guide, text = guided(towards, {"text": EMPTY}, guidance=2.0), torch.ones(3, 2)
    for call, error, message in [
        (lambda: guide(X, SIGMA), ScoreError, r"expected the conditions \['text'\], got \[\]"),
        (lambda: guide(X, SIGMA, text=torch.ones(3, 4)), ShapeError, r"null condition as \(4,\)"),
        (lambda: guide(X, SIGMA, text=text, null={"text": torch.ones(2, 2)}), ShapeError, "null"),
        (lambda: guide(X, SIGMA, text=text, null={"txt": text}), ScoreError, r"\['txt'\], got"),
        (lambda: guide(X, SIGMA, text="sea"), ScoreError, "must be a tensor"),
        (lambda: scheduled(guide, {"w": max})(X, SIGMA, text=text), ScoreError, "condition 'w'"),
        (lambda: slerp(EMPTY, torch.zeros(3), 0.5), ShapeError, "one shape"),
        (
            lambda: slerp(EMPTY.long(), EMPTY.long(), 0.5),
            ShapeError,
            "floating-point embeddings",
        ),
        (lambda: interpolated(["f"], "text", EMPTY, EMPTY), ShapeError, "two nodes"),
        (lambda: interpolated("fgf", "text", EMPTY, EMPTY), ShapeError, "got 'f' twice"),
    ]:
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"guidance": torch.ones(3)}, r"one for each of 5 rows, got \(3,\)"),
        (
            {"null": {"text": torch.ones(5, 4) * 1j}},
            r"as what torch.float32, .* got \[5, 4\] complex",
        ),
        ({"null": {"text": torch.ones(3, 4)}}, r"as \(5, 4\), one for each row.*got \(3, 4\)"),
    ],
)
def test_guidance_and_nulls_for_other_rows_are_refused(given: dict[str, Any], words: str) -> None:
    score = guided(lambda x, sigma, text: -x, {"text": 0.0}, guidance=2.0)
    with pytest.raises(ShapeError, match=words):
        score(torch.ones(5, 2), torch.ones(5), text=torch.ones(5, 4), **given)


@pytest.mark.parametrize("null", [0.5, torch.tensor(0.5), 2**40, float("nan")])
def test_nulls_that_a_dtype_cannot_hold_are_refused(null: Any) -> None:
    """They would be cut to another class, in silence."""
    score = guided(lambda x, sigma, label: label[:, None] + 0 * x, {"label": null}, guidance=2.0)
    with pytest.raises(ShapeError, match=r"the null condition as what torch\.int32, .* got "):
        score(torch.ones(5, 2), torch.ones(5), label=torch.ones(5, dtype=torch.int32))


def test_one_level_for_all_with_memory() -> None:
    """A level without axes, as a number and `[batch]` are accepted."""
    graph, x = tiles((6,), 4, 2), torch.linspace(-1, 1, 12).double().reshape(2, 6)
    rule, c = Consistent(gaussian.node_covariances(graph, ar1(6, 0.5))), torch.ones(2, 1)
    inner = compose(graph, lambda x, sigma, c: (c - x) / (1 + sigma[:, None] ** 2), rule=rule)
    score = guided(inner, {"c": 0.0}, guidance=2.0)
    for level in (torch.tensor(0.7), 0.7, torch.tensor([0.7, 0.7])):
        found = score.remembering()(x, level, c=c)
        torch.testing.assert_close(found, score.remembering()(x, 0.7, c=c))


def test_a_network_may_have_an_attribute_memory() -> None:
    class Attending(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = torch.nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
            return text * self.memory - x

    pair = guided(Attending().eval(), {"text": torch.zeros(2)}, guidance=2.0)
    x = sample(partial(pair, text=torch.ones(3, 2)), [1.0, 0.5, 0.0], shape=(3, 2), generator=0)
    assert x.isfinite().all()
