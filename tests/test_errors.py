import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pgmdiff import (
    Consistent,
    FactorGraph,
    Gaussian,
    Posterior,
    RegionGraph,
    baselines,
    compose,
    fit_covariances,
    from_eps,
    graphs,
    karras,
    sample,
    samplers,
)
from pgmdiff.conditioning import moment_matching, reconstruction
from pgmdiff.diagnostics import (
    crps,
    interval_coverage,
    r_precision,
    rank_statistics,
    seam_ratio,
    spectrum,
    with_floor,
)
from pgmdiff.distributed import stream
from pgmdiff.errors import PgmdiffError, required
from pgmdiff.integrations.azula import to_azula
from pgmdiff.models.series import SeriesNet
from pgmdiff.samplers import Noise
from pgmdiff.scores import Timesteps, guided, padded
from pgmdiff.training import EDMDenoiser, crops, fit

X, S = torch.ones(4, 3), torch.ones(4)
LINE = compose(graphs.chain(3), lambda x, sigma, **condition: -x)
TILES = graphs.tiles((8,), (4,), (2,))


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name="azula")

    monkeypatch.setattr("pgmdiff.errors.import_module", missing)
    with pytest.raises(ImportError, match=r"pip install 'pgmdiff\[azula\]'"):
        to_azula(lambda x, sigma: -x, None)


def test_a_library_that_fails_by_itself_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory
) -> None:
    (tmp_path / "broken_library.py").write_text("import a_part_that_is_missing")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_part_that_is_missing"):
        required("broken_library", "this test", "none")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: graphs.chain("3"), r"chain: expected n as int \(number of variables\), got '3'"),
        (lambda: graphs.chain(2.0), r"chain: expected n as int \(number of variables\), got 2.0"),
        (lambda: karras(4, 0.1, 9.0, rho="7"), r"karras: expected rho as float \(ρ\), got '7'"),
        (lambda: samplers.SDE(None), r"SDE: expected eta as float \(strength of the noise\)"),
        (
            lambda: seam_ratio(torch.ones(4, 9), [4.5]),
            r"seam_ratio: .*seams as Iterable\[int\]",
        ),
        (
            lambda: spectrum(torch.ones(4, 9), -3),
            r"spectrum: it failed .*x as Tensor .*\[4, 9\]",
        ),
        (lambda: graphs.grid(2, "3"), r"grid: it failed .*sizes as int"),
        (
            lambda: guided(LINE, {"c": 0.0})(X, S, guidance="3", c=X),
            r"Guided: expected guidance as Tensor \| float \| None, got '3'",
        ),
        (lambda: LINE(X, {"σ": 1.0}), r"Joint: expected sigma as Tensor \| float"),
        (
            lambda: LINE.denoise(X, "1"),
            r"Joint.denoise: expected sigma as Tensor \| float, got '1'",
        ),
        (lambda: LINE.rule.weights("graph"), r"Marginal.weights: expected graph as RegionGraph"),
        (lambda: LINE.graph.pack(3), r"FactorGraph.pack: expected values as Mapping.*, got 3"),
        (lambda: EDMDenoiser(LINE, 1.0)(X, "1"), r"EDMDenoiser: .* sigma as .*, got '1'"),
        (lambda: from_eps(LINE)(None, S), r"NetworkScore: expected x as Tensor, got None"),
        (lambda: Noise.of(0, 1)("start", X[:1]), r"Noise: expected number as int .*, got 'start'"),
        (
            lambda: SeriesNet()(X[:, None], S[:3]),
            r"SeriesNet: it failed .*x as Tensor.* \[4, 1, 3\]",
        ),
    ],
)
def test_raw_errors_name_the_argument(call: Callable[[], object], words: str) -> None:
    with pytest.raises(PgmdiffError, match=words) as raised:
        call()
    assert raised.value.__cause__ is not None
    assert "See help(" in str(raised.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: sample(LINE, [1.0, 0.0], shape=(4, 3), seed=0),
            r"argument 'seed'. sample accepts score, sigmas, .* generator, .* device\.$",
        ),
        (lambda: compose(LINE.graph, LINE, seed=0), r"argument 'seed'. compose accepts graph, "),
        (
            lambda: Consistent({}, iteration=3),
            r"argument 'iteration'. Consistent accepts .*, iterations, mean, ",
        ),
        (lambda: Gaussian.fit(X, ridg=1), r"argument 'ridg'. Gaussian.fit accepts samples"),
        (lambda: graphs.chain(3, seed=0), r"from_arrays accepts .* axis, .* accepts n, shape\.$"),
        (
            lambda: with_floor(lambda x, y: 0.0, X, torch.cat([X, X]), seed=0),
            r"argument 'seed'. bootstrap accepts .* generator\. with_floor accepts metric, ",
        ),
        (
            lambda: stream(TILES, LINE, [1.0, 0.0], out=np.ones((1, 8)), shape=(1, 8), seed=0),
            r"argument 'seed'. compose accepts .* stream accepts graph, .* generator, .* device\.$",
        ),
        *(
            (
                lambda draw=draw: draw(LINE, TILES, [1.0, 0.0], seed=0),
                rf"'seed'. sample accepts .* generator, .* {draw.__name__} accepts score, ",
            )
            for draw in (
                baselines.composed,
                baselines.concatenation,
                baselines.naive,
                baselines.outpainting,
            )
        ),
    ],
)
def test_an_unknown_keyword_is_answered_with_the_known_ones(
    call: Callable[[], object], words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        call()


@pytest.mark.parametrize("name", ["seed", "networks", "crops", "denoiser"])
def test_an_unknown_option_of_fit_is_answered_with_the_known_ones(name: str) -> None:
    words = rf"option '{name}', .* accepts steps, .* generator, half, .* batch, lr, .* progress\.$"
    with pytest.raises(PgmdiffError, match=words):
        fit([(3,)], SeriesNet(), X, steps=1, **{name: 0})


def broken(x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
    raise AttributeError("my own")


@pytest.mark.parametrize(
    "score",
    [
        compose(graphs.chain(3), broken),
        compose(graphs.chain(3), broken).denoise,
        compose(graphs.chain(3), broken).remembering(),
        guided(broken, {"c": 0.0}),
        from_eps(broken),
        EDMDenoiser(broken, 1.0),
        moment_matching(broken, torch.ones(3), torch.tensor([True, False, True])),
        padded(broken, (5,)),
    ],
    ids=str,
)
def test_errors_of_a_score_that_is_called_pass(score: Callable[..., Tensor]) -> None:
    with pytest.raises(AttributeError, match=r"^my own") as raised:
        score(X, S, c=X)
    assert raised.value.__cause__ is None
    assert raised.traceback[-1].name == "broken"


def test_errors_within_what_the_user_gave_pass() -> None:

    class Broken(nn.Linear):
        forward = nn.Linear.forward

    with pytest.raises(AttributeError, match=r"^my own$"):
        sample(broken, [2.0, 1.0], shape=(3, 2))
    network = Broken(5, 5)
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2"):
        sample(lambda x, sigma: network(x), [2.0, 1.0], shape=(3, 2))
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'n'"):
        graphs.chain()


def needs(x: Tensor, sigma: Tensor, mood: Tensor) -> Tensor:
    return mood - x


@pytest.mark.parametrize(
    ("call", "who", "words"),
    [
        (lambda: sample(needs, [2.0, 1.0], shape=(2, 3)), "sample", "'mood'"),
        (lambda: compose(graphs.chain(3), needs)(X, S), "Joint", "'mood'"),
        (lambda: sample(from_eps(needs), [2.0, 1.0], shape=(2, 3)), "sample", "'mood'"),
        (lambda: stream(TILES, needs, [2.0, 1.0], out=np.ones((1, 8))), "stream", "'mood'"),
        (lambda: compose(TILES, lambda x: -x)(torch.ones(1, 8), 1.0), "Joint", "takes 1 pos"),
        (lambda: compose(TILES, lambda x, s: -x)(torch.ones(1, 8), 1.0, mood=X[:1]), "Joint",
         "unexpected keyword argument 'mood'"),
    ],
)  # fmt: skip
def test_functions_that_cannot_be_called_so_say_it_themselves(
    call: Callable[[], object], who: str, words: str
) -> None:
    with pytest.raises(TypeError, match=rf"^\S+\(\) .*{words}") as raised:
        call()
    assert raised.value.__cause__ is None
    notes = getattr(raised.value, "__notes__", [f"while {who} called. functools.partial"])
    assert f"while {who} called" in notes[-1]
    assert "functools.partial" in notes[-1]


def test_an_argument_with_an_odd_shape_is_shown() -> None:
    class Odd:
        shape = dtype = None

    with pytest.raises(PgmdiffError, match=r"chain: expected n as int .*, got <.*Odd"):
        graphs.chain(Odd())


def eye(n: int) -> Tensor:
    return torch.eye(n)


@pytest.mark.parametrize(
    "call",
    [
        *(lambda s=s: RegionGraph.from_regions({"a": [0, 1]}, event_shape=s)
          for s in [(math.nan,), (2.5,), (-2, -1)]),
        lambda: FactorGraph.from_arrays([[0, 1]], variables={"a", "b"}),
        lambda: karras(4, 0.1, 9.0, rho=math.nan),
        lambda: samplers.cosine(4, 0.1, 9.0, s=math.nan),
        lambda: samplers.variance_preserving(4, 0.1, 9.0, beta_min=math.nan),
        lambda: samplers.time_travel([4.0, math.nan, 0.0], 1),
        *(lambda s=s: sample(LINE, [2.0, 1.0], shape=s)
          for s in ((), "23", (2.0, 3), (-1, 3), torch.tensor([2, 3]), 3)),
        lambda: sample(LINE, [2.0, 1.0], x=torch.tensor(1.0)),
        *(lambda alphas=alphas: Timesteps(alphas)
          for alphas in ([1e-4, 1e-3, 0.02], [0.5], [], [1.2, 0.5], [math.nan, 0.5])),
        lambda: reconstruction(LINE, torch.ones(3), torch.ones(3) > 0, 1.0),
        *(lambda f=f: f(torch.full((40, 9), math.nan), torch.ones(40))
          for f in (crps, interval_coverage, rank_statistics)),
        lambda: r_precision(torch.full((40, 9), math.nan), torch.ones(40, 9)),
        *(lambda null=null: crops([(3,)], torch.ones(4, 3), labels={"label": [0, 1, 2, 3]},
                                  null_condition={"label": null}).draw(2) for null in (None, "9")),
        *(lambda rows=rows: fit_covariances(graphs.chain(2), {"f0": rows})
          for rows in ("text", torch.ones(()), torch.ones(1, 2), torch.ones(9, 3))),
        *(lambda wrong=wrong: compose(graphs.chain(2), lambda x, s: -x,
              rule=Posterior({"f0": wrong, "x0": eye(1), "x1": eye(1)}))
          for wrong in ("text", eye(2).to(torch.complex64), torch.ones(2, 2).tril())),
    ],
)  # fmt: skip
def test_wrong_values_are_not_accepted(call: Callable[[], object]) -> None:
    with pytest.raises(PgmdiffError, match=r"expected|symmetric") as raised:
        call()
    assert raised.value.__cause__ is None  # a check of its own, rather than a raw error
