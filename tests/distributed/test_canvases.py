"""A canvas in strips is the canvas drawn whole, with the memory of a few strips."""

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
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
    field,
    fit_covariances,
    from_denoiser,
    karras,
    sample,
    tiles,
)
from pgmdiff.composition import Rule
from pgmdiff.conditioning import Mask, moment_matching
from pgmdiff.distributed import stream
from pgmdiff.gaussian import Gaussian, node_scores
from pgmdiff.graphs import chain
from pgmdiff.noise import START, Noise
from pgmdiff.samplers import (
    DEIS,
    EDM,
    SDE,
    Adaptive,
    DPMSolver2M,
    DPMSolver2S,
    DPMSolver3M,
    Euler,
    Heun,
    Langevin,
    PredictorCorrector,
    Run,
    UniPC,
    time_travel,
)

LEVELS = karras(6, 0.02, 20.0)
RHO = 0.8
WIDE = torch.float64


def covariance(n: int) -> Tensor:
    i = torch.arange(n, dtype=WIDE)
    return RHO ** (i[:, None] - i).abs()


@from_denoiser
def process(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact denoiser of an AR(1) process, of any length; rows are independent."""
    n = x.shape[-1]
    gain = torch.linalg.solve(covariance(n) + sigma[0].double() ** 2 * torch.eye(n), covariance(n))
    return x @ gain.to(x.dtype)


def pixels(x: Tensor, sigma: Tensor, mean: Tensor | float = 0.0) -> Tensor:
    return (mean - x) / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2)


def both(graph: Any, score: Any, sigmas: Any = LEVELS, n: int = 2, **options: Any) -> list[Any]:
    """The canvas in strips, and whole."""
    own = {k: options.pop(k) for k in ("strip", "halo") if k in options}
    drawn = {k: options.pop(k) for k in ("solver", "dtype", "mean") if k in options}
    shape = (n, *graph.event_shape)
    whole = sample(compose(graph, score, **options), sigmas, shape=shape, generator=5, **drawn)
    out = np.full(shape, np.nan, str(whole.dtype).removeprefix("torch."))
    stream(graph, score, sigmas, out=out, shape=shape, generator=5, **own, **drawn, **options)
    return [torch.from_numpy(out), whole]


@pytest.mark.parametrize(
    "solver",
    [Euler(), SDE(), Heun(), EDM(6), DPMSolver2S(), DEIS(), UniPC(), DPMSolver2M(eta=1.0),
     DPMSolver3M()],
    ids=lambda s: type(s).__name__,
)  # fmt: skip
def test_strips_are_the_whole_to_the_bit(solver: Any) -> None:
    """Windows that overlap in twos are added in one order."""
    graph = tiles((2, 203), (2, 8), (0, 4), remainder="shift")
    for rule in (Marginal(), Average()) if solver == UniPC() else (Marginal(),):
        strips, whole = both(graph, process, solver=solver, rule=rule, dtype=WIDE, strip=16)
        assert torch.equal(strips, whole)


@pytest.mark.parametrize(
    ("shape", "window", "overlap", "periodic"),
    [
        ((101,), 9, 6, False),  # three windows on an element
        ((90, 3), (9, 3), (3, 0), False),  # along the first axis
        ((2, 8, 103), (1, 4, 7), (0, 2, 3), (False, True, False)),  # a cylinder, in all axes
        ((30,), 30 - 4, 26 - 4, False),  # one strip
    ],
)
def test_shapes(shape: Any, window: Any, overlap: Any, periodic: Any) -> None:
    graph = tiles(shape, window, overlap, periodic, remainder="shift")
    for score, dtype, tolerance in ((process, WIDE, 1e-13), (pixels, torch.float32, 1e-5)):
        strips, whole = both(graph, score, dtype=dtype, solver=SDE())
        torch.testing.assert_close(strips, whole, rtol=0, atol=tolerance)


def test_levels_that_rise() -> None:
    sigmas = time_travel(LEVELS, 2, 2)
    strips, whole = both(tiles((2, 60), (2, 8), (0, 4)), process, sigmas, dtype=WIDE)
    assert torch.equal(strips, whole)


def test_it_starts_around_the_mean_of_the_canvas_or_says_that_it_should() -> None:
    graph, ramp = tiles((2, 60), (2, 8), (0, 4)), torch.linspace(90.0, 99.0, 60, dtype=WIDE)
    score = partial(pixels, mean=95.0)
    for mean in (95.0, torch.tensor([[95.0], [96.0]]), ramp, [95.0] * 60):
        strips, whole = both(graph, score, mean=mean, dtype=WIDE, strip=16)
        assert torch.equal(strips, whole)
    out = np.zeros((4, 2, 60))
    with pytest.warns(UserWarning, match=r"stream: .*does not hide .* Give mean="):
        stream(graph, score, LEVELS, out=out, shape=out.shape, generator=0)


def test_conditions_and_fields_carry_over() -> None:
    graph = tiles((1, 84), (1, 8), (0, 4))
    conditions = {
        name: {"mean": torch.full((1, 8), float(i))} for i, name in enumerate(graph.pieces)
    }
    null = {"mean": torch.zeros(1, 4)}
    strips, whole = both(graph, pixels, conditions=conditions, null_condition=null, strip=12)
    assert torch.equal(strips, whole)
    ramp = {"mean": field(torch.arange(84.0)[None])}
    strips, whole = both(graph, pixels, conditions=ramp)
    assert torch.equal(strips, whole)
    assert strips[..., 80:].mean() > 60


def test_a_pattern_goes_on() -> None:
    """A graph of two windows is that of any length."""
    out = np.zeros((1, 100), np.float32)
    stream(tiles((12,), 8, 4), process, LEVELS, out=out, shape=(1, 100), generator=1)
    whole = sample(compose(tiles((100,), 8, 4), process), LEVELS, shape=(1, 100), generator=1)
    np.testing.assert_array_equal(out, whole.numpy())


def posterior(window: int, overlap: int) -> Posterior:
    return Posterior({(n,): covariance(n) for n in (window, overlap)})


def test_a_strip_may_lack_some_of_the_models() -> None:
    """The last window is shifted: its overlap, of 6 places, has a covariance of its own."""
    graph = tiles((298,), 8, 4, remainder="shift")
    rule = Posterior({(n,): covariance(n) for n in (8, 4, 6)})
    strips, whole = both(graph, process, rule=rule, dtype=WIDE, strip=100, halo=40)
    torch.testing.assert_close(strips, whole, rtol=0, atol=1e-3)


@pytest.mark.parametrize("rule", [Posterior, Consistent])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((140,), {"shared": True}),
        ((140,), {"shared": True, "form": "low_rank", "rank": 5}),
        ((2, 140), {"shared": True}),
        ((2, 140), {"shared": True, "channels": True}),
        ((2, 140), {"form": "stationary", "channels": True}),
    ],
)
def test_covariances_that_windows_share_are_accepted(
    rule: Any, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    """However they were fitted; also those of a pattern that goes on."""
    windows: Any = (8, 4) if len(shape) == 1 else ((2, 8), (0, 4))
    whole, pattern = tiles(shape, *windows), tiles((*shape[:-1], 40), *windows)
    process = Gaussian(torch.zeros(140), covariance(140))
    data = process.sample(800, 0).reshape(-1, *shape)
    fitted, mean = fit_covariances(pattern, data[..., :40], **options), torch.full(shape, 0.5)
    far: dict[str, Any] = {"generator": 0, "dtype": WIDE}
    given = {group.model: fitted.form(group).dense()[0] for group in pattern.groups}
    for graph, covariances in ((whole, given), (pattern, fitted)):
        mean = mean[..., : graph.event_shape[-1]]
        out = np.zeros((1, *graph.event_shape))
        drawn = rule(fitted, mean=mean)
        stream(pattern, pixels, LEVELS, out=out, shape=out.shape, rule=drawn, halo=140, **far)
        joint = compose(graph, pixels, rule=rule(covariances, mean=mean))
        expected = sample(joint, LEVELS, shape=out.shape, **far)
        np.testing.assert_allclose(out, expected.numpy(), atol=1e-7)


def test_a_window_that_is_shifted_needs_an_overlap_of_its_own() -> None:
    """It is told, unless the graph has one itself."""
    found = fit_covariances(PLAIN, LINE.sample(99, 0), shared=True)
    out = np.zeros((1, 18))
    with pytest.warns(UserWarning, match=r"the last one is shifted and shares 6 .*Use 16 or 20"):
        stream(PLAIN, pixels, LEVELS, out=out, shape=out.shape)
    told = pytest.warns(UserWarning, match="the last one is shifted")
    with told, pytest.raises(GraphError, match="the last window, which is shifted"):
        stream(PLAIN, pixels, LEVELS, out=out, shape=out.shape, rule=Posterior(found))
    graph = tiles((18,), 8, 4, remainder="shift")
    stream(graph, pixels, LEVELS, out=out, shape=out.shape)


def test_the_truncated_solve_reports_its_error() -> None:
    """It is the exact score of the strip and its halo; reported is what twice the halo changes."""
    n, width, score, wholes = 420, 100, process, []
    graph, noise = tiles((n,), 8, 4), Noise.of(2, 3)
    start = 20.0 * noise(START, torch.empty(3, n, dtype=WIDE))

    def truncated(halo: int) -> Tensor:
        first, last = width - halo - 4, 2 * width + halo + 4  # the windows that touch
        part = covariance(last - first) + 400 * torch.eye(last - first)
        found = -torch.linalg.solve(part, start[:, first:last].T).T
        return found[:, halo + 4 :][:, :width]

    whole = sample(compose(graph, score, rule=posterior(8, 4)), LEVELS, x=start)
    for halo in (4, 16, 32):
        out = np.zeros((3, n))
        made = stream(graph, score, LEVELS, out=out, shape=(3, n), generator=2, dtype=WIDE,
                      rule=posterior(8, 4), halo=halo, strip=width)  # fmt: skip
        assert len(made.truncation) == len(LEVELS) - 1
        near, far = truncated(halo), truncated(2 * halo)
        assert made.truncation[0] == pytest.approx(float((near - far).norm() / far.norm()))
        wholes.append(float(np.abs(out - whole.numpy()).max()))
    assert wholes[0] > 4 * wholes[1] > 16 * wholes[2]
    assert wholes[2] < 1e-3


def bent(x: Tensor, sigma: Tensor) -> Tensor:
    """Scores of no Gaussian, whose pieces do not agree on what they share."""
    level = 1 + sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2
    before = (x.flatten(1).cumsum(1) - x.flatten(1)).reshape(x.shape)
    return (0.1 * before.sin() - x) / level


def agreeing(graph: Any, trust: float = 1e3) -> Consistent:
    given = {group.shape: torch.eye(prod(group.shape)) + 0.1 for group in graph.groups}
    return Consistent(given, mean=torch.zeros(graph.event_shape), trust=trust)


@pytest.mark.parametrize(
    ("shape", "window", "overlap", "solver", "strip"),
    [
        ((402,), 6, 2, UniPC(), 60),
        ((302,), 8, 5, SDE(), 60),  # a stride divides no window; three windows on an element
        ((322, 3), (6, 3), (2, 0), Heun(), 120),  # along the first axis
        ((2, 3, 202), (1, 3, 6), (0, 0, 2), DPMSolver2M(eta=1.0), 60),  # two lines
        ((122, 6), (6, 3), (2, 1), UniPC(), 60),  # around a cylinder
    ],
)
def test_messages_go_with_the_strips(
    shape: Any, window: Any, overlap: Any, solver: Any, strip: int
) -> None:
    """What the truncated solve loses decays with the halo, and nothing else is lost."""
    closed = [overlap != 0 and side == 6 for side in shape]
    graph, errors = tiles(shape, window, overlap, closed), []
    sigmas = time_travel(LEVELS, 2, 2) if solver == UniPC() else LEVELS
    options: dict[str, Any] = {"rule": agreeing(graph), "dtype": WIDE, "solver": solver}
    for halo in (8, 24):
        strips, whole = both(graph, bent, sigmas, halo=halo, strip=strip, **options)
        errors.append(float((strips - whole).abs().max()))
    assert errors[0] > 10 * errors[1]


@pytest.mark.parametrize(("length", "window", "overlap", "strip"), [(28, 4, 1, 9), (38, 8, 2, 12)])
@pytest.mark.parametrize("rule", [Posterior, Consistent])
def test_the_last_strip_may_see_few_windows(
    length: int, window: int, overlap: int, strip: int, rule: Any
) -> None:
    """Messages are laid out as in the strip before, also where a narrow halo sees one window."""
    graph = tiles((length,), window, overlap)
    known = rule(agreeing(graph).covariances, mean=torch.zeros(length))
    strips, whole = both(graph, bent, halo=1, strip=strip, rule=known, dtype=WIDE)
    assert float((strips - whole).abs().max()) < 0.1


def test_messages_of_pieces_with_and_without_conditions() -> None:
    """Models are called in several batches, not the same ones in every strip."""
    graph = tiles((204,), 8, 4)

    def told(x: Tensor, sigma: Tensor, mean: Tensor | float = 0.0) -> Tensor:
        own = mean if isinstance(mean, float) else mean[:, None]
        return bent(x, sigma) + 0.1 * own / (1 + sigma[:, None] ** 2)

    few = {name: {"mean": torch.ones(())} for name in [*graph.pieces][20::2]}
    options: dict[str, Any] = {"rule": agreeing(graph), "conditions": few, "dtype": WIDE}
    options["null_condition"] = {"mean": torch.zeros(())}
    with pytest.warns(UserWarning, match="gets no condition"):
        strips, whole = both(graph, told, halo=32, strip=84, **options)
    with pytest.warns(
        UserWarning, match=r"stream: window '\[0:8\]' gets no condition, but"
    ) as said:
        stream(graph, told, LEVELS, out=np.zeros((1, 204)), halo=32, strip=84, **options)
    assert len(said) == 1, "not once per level"
    torch.testing.assert_close(strips, whole, rtol=0, atol=1e-3)


def test_the_trust_radius_is_told_and_runs_resume(tmp_path: Path) -> None:
    """Messages are saved with the front."""
    graph = tiles((204,), 8, 4)

    class Dying(np.ndarray):
        def __setitem__(self, where: Any, values: Any) -> None:
            if where[1].start == 80:
                raise KeyboardInterrupt
            super().__setitem__(where, values)

    options: dict[str, Any] = {"generator": 3, "rule": agreeing(graph, 0.01), "strip": 80}
    plain, killed = np.zeros((2, 1, 204), np.float32)
    made = stream(graph, bent, LEVELS, out=plain, **options)
    assert made.capped > 0
    assert f"capped={made.capped}" in repr(made)
    assert not stream(graph, pixels, LEVELS, out=killed, **options).capped
    with pytest.raises(KeyboardInterrupt):
        stream(graph, bent, LEVELS, out=killed.view(Dying), run=tmp_path, **options)
    again = stream(graph, bent, LEVELS, out=killed, run=tmp_path, **options)
    assert np.array_equal(plain, killed)
    assert again.capped == made.capped


def test_means_belong_to_the_canvas_or_are_the_same_everywhere() -> None:
    data = 5 + torch.randn(4000, 24, generator=torch.Generator().manual_seed(0)).to(WIDE)
    found = fit_covariances(tiles((24,), 8, 4), data, form="stationary")
    graph = tiles((204,), 8, 4)

    def shifted(x: Tensor, sigma: Tensor) -> Tensor:
        return pixels(x, sigma, 5.0)

    for given in (None, torch.full((1,), 5.0), torch.full((204,), 5.0)):
        out = np.zeros((1, 204))
        rule = Posterior(found, mean=given)
        stream(graph, shifted, LEVELS, out=out, rule=rule, generator=1, dtype=WIDE)
        assert abs(out.mean() - 5) < 0.5
    ramp = torch.linspace(0, 40, 204, dtype=WIDE)
    drawn = []
    for given in (ramp, {name: ramp[graph.elements(name)] for name in graph.pieces}):
        drawn.append(np.zeros((1, 204)))
        rule = Posterior(found, mean=given)
        stream(tiles((24,), 8, 4), shifted, LEVELS, out=drawn[-1], shape=(1, 204), rule=rule,
               generator=1, dtype=WIDE)  # fmt: skip
    assert np.array_equal(*drawn)
    few = Posterior(found, mean={"[0:8]": torch.zeros(8)})
    with pytest.raises(GraphError, match="means of regions that cover the state, got none for"):
        stream(graph, shifted, LEVELS, out=out, rule=few)
    with pytest.raises(ShapeError, match="the mean of the rule as \\(204,\\), or as \\(1,\\)"):
        stream(graph, shifted, LEVELS, out=out, rule=Posterior(found, mean=torch.zeros(8)))


@pytest.mark.parametrize(
    ("out", "words"),
    [
        (lambda: np.broadcast_to(np.float32(0), (1, 400)), "which is read-only"),
        (lambda: torch.zeros(1, 400), "a tensor: give its numpy"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_first_evaluation(
    out: Callable[[], Any], words: str
) -> None:
    calls = []

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(len(x))
        return pixels(x, sigma)

    with pytest.raises(ShapeError, match=rf"that can be assigned to.*{words}"):
        stream(tiles((400,), 8, 4), counted, LEVELS, out=out(), generator=0)
    assert not calls


def test_the_memory_is_that_of_a_few_strips() -> None:
    """Levels times strips, whatever the length: what Python and PyTorch hold between waves."""
    peaks = []
    for strips in (20, 36):
        n = 64 * strips

        class Out:
            shape, dtype = (1, n), np.float32

            def __init__(self) -> None:
                self.held: list[int] = []

            def __setitem__(self, where: Any, values: Any) -> None:
                if where[1].start % 768 == 704:  # a look takes a while
                    alive = [t for t in gc.get_objects() if type(t) is Tensor]
                    self.held.append(sum(t.untyped_storage().nbytes() for t in alive))

        out = Out()
        stream(tiles((12,), 8, 4), process, LEVELS, out=out, shape=(1, n), generator=0)
        peaks.append(max(out.held))
    assert peaks[1] < 1.2 * peaks[0]


KILLED = """
import os, sys, zarr
from tests.distributed.test_canvases import torn
for fatal in (37, 61):
    child = os.fork()
    if child == 0:
        torn(sys.argv[1], sys.argv[2], fatal)
        os._exit(0)
    print(os.waitpid(child, 0)[1])
"""


def torn(out: str, folder: str, fatal: int) -> Any:
    """A run that kills itself at a call of its model; -1 if it does not."""
    calls = [0]

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return process(x, sigma)

    score.fingerprint = "process"  # type: ignore[attr-defined]
    return stream(tiles((2, 140), (2, 8), (0, 4)), score, LEVELS, out=out, solver=SDE(), strip=16,
                  generator=4, dtype=WIDE, run=Run(folder, every=0))  # fmt: skip


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    whole = torn(str(tmp_path / "whole"), str(tmp_path / "w"), -1).array[...]
    out, folder = str(tmp_path / "canvas"), str(tmp_path / "run")
    command = [sys.executable, "-c", KILLED, out, folder]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads do not survive a fork
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, env=environment
    )
    assert done.stdout.split() == [str(int(signal.SIGKILL))] * 2, done.stderr
    assert not np.array_equal(zarr_of(out), whole)
    resumed = torn(out, folder, -1)
    np.testing.assert_array_equal(resumed.array[...], whole)
    assert repr(resumed) == "Streamed((1, 2, 140) of float64)"
    np.testing.assert_array_equal(torn(out, folder, 1).array[...], whole)  # nothing is left to do


def zarr_of(path: str) -> Any:
    import zarr

    return zarr.open_array(path, mode="r")[...]


def test_zarr_arrays_are_made_once(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    graph, out = tiles((2, 140), (2, 8), (0, 4)), tmp_path / "canvas"
    made = stream(graph, process, LEVELS, out=out, generator=0, strip=20)
    assert made.array.chunks == (1, 2, 20)
    assert made.array.dtype == np.float32
    with pytest.raises(PgmdiffError, match="to be free"):
        stream(graph, process, LEVELS, out=out, generator=0)


@pytest.mark.parametrize("name", ["x.npy", "x.h5", "x.pt"])
def test_a_path_of_another_format_is_no_zarr_array(name: str, tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    with pytest.raises(PgmdiffError, match=rf"which is a folder, got '.*{name}'. End it in .zarr"):
        stream(PLAIN, pixels, LEVELS, out=tmp_path / name)
    assert not any(tmp_path.iterdir())


def fails(x: Tensor, sigma: Tensor) -> Tensor:
    raise KeyError("no such layer")


@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"label": 1}, TypeError), ({"conditions": {"[1:9]": {}}}, GraphError),
     ({"max_batch": -3}, PgmdiffError), ({"scores": fails}, KeyError)],
)  # fmt: skip
def test_nothing_is_left_of_a_call_that_fails(wrong: Any, error: Any, tmp_path: Path) -> None:
    """So that the corrected call finds the path and the folder free."""
    pytest.importorskip("zarr")
    options: dict[str, Any] = {"scores": pixels, "generator": 0}
    options |= {"out": tmp_path / "canvas", "run": tmp_path / "run"}
    with pytest.raises(error):
        stream(PLAIN, sigmas=LEVELS, **{**options, **wrong})
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    made = stream(PLAIN, sigmas=LEVELS, **options)
    assert np.array_equal(zarr_of(str(tmp_path / "canvas")), made.array[...])


@pytest.mark.parametrize("strip", [24, 80])
def test_what_a_run_reports_is_counted_once(strip: int, tmp_path: Path) -> None:
    """Its first save is made in its second step, and says what was known before the first."""
    calls, graph = iter(range(10_000)), tiles((80,), 8, 4)

    def dies(x: Tensor, sigma: Tensor) -> Tensor:
        if sigma.flatten()[0] < LEVELS[1] and next(calls) == 0:
            raise KeyboardInterrupt
        return bent(x, sigma)

    options: dict[str, Any] = {"generator": 3, "rule": agreeing(graph), "strip": strip, "halo": 8}
    made = stream(graph, bent, LEVELS, out=np.zeros((1, 80), np.float32), **options)
    out, run = np.zeros((1, 80), np.float32), Run(tmp_path, every=1e9)
    with pytest.raises(KeyboardInterrupt):
        stream(graph, dies, LEVELS, out=out, run=run, **options)
    again = stream(graph, dies, LEVELS, out=out, run=run, **options)
    assert len(again.truncation) == len(made.truncation)


RING = tiles((16,), 8, 4, periodic=True)
PLAIN = tiles((16,), 8, 4)
LINE = Gaussian(torch.zeros(16), torch.eye(16))
LEFT = torch.zeros(16), Mask(torch.arange(16) < 2)


class Whole(Rule):
    def weights(self, graph: Any) -> Any:
        return Marginal().weights(graph)

    def score(self, evaluate: Any, u: Tensor, sigma: Tensor, memory: Any = None) -> Tensor:
        return -u


REFUSED: dict[str, tuple[type[Exception], str, Callable[[], dict[str, Any]]]] = {
    "ring": (GraphError, "closes on itself along axis 0", lambda: {"graph": RING}),
    "one window": (GraphError, "a single window", lambda: {"graph": tiles((8,), 8)}),
    "a chain": (GraphError, "windows of one tensor", lambda: {"graph": chain(16)}),
    "region scores": (ScoreError, "of one graph", lambda: {"scores": node_scores(PLAIN, LINE)}),
    "a score of an observation": (
        ScoreError, r"on an observation of the whole state \(16,\): .*distributed.Slab",
        lambda: {"scores": partial(moment_matching(pixels, *LEFT, noise=0.1), mean=0.0)},
    ),
    "a conditioned joint": (
        ScoreError, "stream knows no observations: draw with sample",
        lambda: {"scores": moment_matching(compose(PLAIN, pixels), *LEFT, noise=0.1)},
    ),
    "a function of the whole": (
        ScoreError, "conditioned on an observation of the whole state",
        lambda: {"scores": moment_matching(
            compose(PLAIN, pixels), torch.ones(1), lambda u: u[:, :1] ** 3, noise=0.1
        )},
    ),
    "a joint": (
        ScoreError, r"a joint of the whole state .*Give the scores of its windows",
        lambda: {"scores": {(8,): compose(PLAIN, pixels), (4,): pixels}},
    ),
    "adaptive": (PgmdiffError, "elementwise", lambda: {"solver": Adaptive()}),
    "corrector": (
        PgmdiffError, "elementwise", lambda: {"solver": PredictorCorrector(SDE(), Langevin())}
    ),
    "no solver": (PgmdiffError, "instance", lambda: {"solver": UniPC}),
    "a rule of the whole": (ScoreError, "depends on the whole", lambda: {"rule": Whole()}),
    "covariances by name": (
        ScoreError, "the same for all windows",
        lambda: {"rule": Posterior({name: covariance(8) for name in PLAIN.names})},
    ),
    "a rest": (
        ShapeError, "got 18. Use 16 or 20, or Posterior",
        lambda: {"rule": agreeing(PLAIN), "shape": (1, 18), "out": np.zeros((1, 18))},
    ),
    "strip": (ShapeError, "multiple of the stride", lambda: {"strip": 10}),
    "no halo": (
        ShapeError, "halo >= 1",
        lambda: {"rule": posterior(8, 4), "halo": 0},
    ),
    "short strip": (ShapeError, "at least 8", lambda: {"strip": 4}),
    "shape": (ShapeError, "at least 8", lambda: {"shape": (1, 4)}),
    "another axis": (
        ShapeError, r"got \(1, 40, 12\)\. Strips run along axis 1 .* windows in the graph \(2\)",
        lambda: {"graph": tiles((12, 12), 8, 4), "shape": (1, 40, 12)},
    ),
    "channels": (ShapeError, "expected shape", lambda: {"shape": (1, 2, 16)}),
    "array": (ShapeError, "an array of shape", lambda: {"out": np.zeros((2, 16))}),
    "integers": (
        ShapeError, r"array of floats, got \[1, 16\] int16",
        lambda: {"out": np.zeros((1, 16), np.int16)},
    ),
    "booleans": (ShapeError, "array of floats", lambda: {"out": np.zeros((1, 16), bool)}),
    "covariances of every window": (
        ScoreError, "shared=True",
        lambda: {"rule": Posterior(fit_covariances(PLAIN, LINE.sample(99, 0)))},
    ),
    "no array": (ShapeError, "path of a zarr array", lambda: {"out": 3}),
    "levels": (PgmdiffError, "fall at the end", lambda: {"sigmas": [1.0, 2.0]}),
    "half": (PgmdiffError, "float32 or float64", lambda: {"dtype": torch.float16}),
    "a condition that is none": (
        GraphError, "is of type int, expected a mapping", lambda: {"conditions": {"[0:8]": 1}}
    ),
    "a name": (GraphError, "no region is named", lambda: {"conditions": {"[1:9]": {}}}),
    "a short field": (
        ShapeError, "over the whole canvas",
        lambda: {"conditions": {"mean": field(torch.zeros(1, 8))}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_words(case: str) -> None:
    kind, words, given = REFUSED[case]
    options = {"graph": PLAIN, "scores": pixels, "sigmas": LEVELS, "out": np.zeros((1, 16))}
    with pytest.raises(kind, match=words) as caught:
        stream(**{**options, **given()})  # type: ignore[arg-type]
    assert str(caught.value).startswith(("stream: ", "RegionGraph: "))


def test_a_run_of_something_else_is_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {"out": np.zeros((1, 16)), "run": tmp_path, "generator": 0}
    stream(PLAIN, pixels, LEVELS, **options)
    for other in (
        {"generator": 1}, {"strip": 8}, {"rule": Average()}, {"solver": Euler()}, {"mean": 1.0},
    ):  # fmt: skip
        with pytest.raises(PgmdiffError, match="belongs to another run"):
            stream(PLAIN, pixels, LEVELS, **{**options, **other})


def test_without_zarr_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=r"pgmdiff\[zarr\]"):
        stream(PLAIN, pixels, LEVELS, out=tmp_path / "canvas")


def test_a_null_condition_that_is_a_field_is_that_of_its_place() -> None:
    """Also where nothing else tells one strip from another."""
    graph, null = tiles((200,), 8, 4), field(torch.linspace(0, 9, 200).double())
    options: dict[str, Any] = {"null_condition": {"c": null}}

    def score(x: Tensor, sigma: Tensor, c: Any = 0.0) -> Tensor:
        return (c - x) / (1 + sigma[:, None] ** 2)

    levels, out = karras(6, 0.01, 10.0), np.zeros((1, 200))
    stream(graph, score, levels, out=out, strip=16, generator=0, dtype=torch.float64, **options)
    joint = compose(graph, score, **options)
    whole = sample(joint, levels, shape=(1, 200), generator=0, dtype=torch.float64)
    np.testing.assert_allclose(out, whole.numpy(), atol=1e-10)


def test_a_run_goes_on_in_the_array_that_it_has_written_alone(tmp_path: Path) -> None:
    """In a fresh array what was written before would be missing."""

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        return -x / (1 + sigma[:, None] ** 2)

    def call(out: Any, **options: Any) -> None:
        levels, run = karras(8, 0.01, 10.0), Run(tmp_path, every=0)
        stream(
            tiles((16,), 8, 4), score, levels, out=out, shape=(1, 400), strip=32, run=run, **options
        )

    class Dying(np.ndarray):
        def __setitem__(self, where: Any, values: Any) -> None:
            if where[-1].start >= 128:
                raise KeyboardInterrupt
            super().__setitem__(where, values)

    out = np.zeros((1, 400), np.float16)  # in which values are rounded
    with pytest.raises(KeyboardInterrupt):
        call(out.view(Dying))
    for fresh in (np.zeros_like(out), out + 1):
        with pytest.raises(PgmdiffError, match=r"latest strip, 96:128 on axis 0, is another"):
            call(fresh)
    call(out, max_batch=3)  # how many rows a call has may be another
    assert (out != 0).mean() > 0.99
    call(out)  # it is finished
    with pytest.raises(PgmdiffError, match=r"latest strip, 384:400"):
        call(np.zeros_like(out))
