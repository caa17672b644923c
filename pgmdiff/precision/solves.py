r"""Solves with I + σ² P, chosen by structure and size; and the test that P is positive definite.

    `Eigen`               a small state: one eigendecomposition serves every σ
    `Channelwise`         Σ_r = C ⊗ S_r: one solve of the places a channel of C's eigenbasis
    `Circulant`           periodic windows that share their covariances: P repeats with the stride,
                          and Fourier transforms over the shifts leave one small block a frequency
    `SmallSpace`          low rank plus δ I: with W = [|c_r g_r|^½ A_rᵀ U_r], S = diag(sign c_r) and
                          τ = σ²/(σ² + δ)
                              P = δ⁻¹ (I - W S Wᵀ)
                              (I + σ² P)⁻¹ = (1 - τ) [I + τ W (S - τ WᵀW)⁻¹ Wᵀ]
    `SparseFactors`       a junction tree: block elimination along it, linear in a chain's length
    `ConjugateGradients`  all else: only products, started from the marginal rule's score

Factors are made once a (graph, σ) and serve the whole batch.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from math import gcd, prod
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.sparse import linalg
from torch import Tensor

from pgmdiff.errors import GraphError, ScoreError
from pgmdiff.graphs.regions import AxisWindows, RegionGraph, WindowGroup
from pgmdiff.precision.composed import Block, ComposedPrecision, LevelledPrecision, Precision
from pgmdiff.precision.covariances import Separable, without_channels
from pgmdiff.precision.forms import LowRankPrecisions

__all__ = [
    "Channelwise",
    "Circulant",
    "ConjugateGradients",
    "Eigen",
    "IndefiniteError",
    "PerLevel",
    "SmallSpace",
    "Solve",
    "SparseFactors",
    "is_definite",
    "least_change",
    "least_shrinkage",
    "solver_of",
]

SMALL = 768
"""Elements up to which one eigendecomposition serves every σ; also of a circulant's block."""
SPARSE_ENTRIES = 20_000_000
"""Entries of region precisions, or of a circulant's blocks, up to which P is held."""
TESTED = 5_000
"""Elements up to which P is factorised only to see whether it is definite."""
KEPT_FACTORS = 8
ACCEPTED = 1e-8
"""Relative residual that conjugate gradients may end with."""
JITTERS = (0.0, 1e-8, 1e-6, 1e-4)
"""Tried before shrinkage, in units of the mean variance."""


class IndefiniteError(GraphError):
    """The composed precision is not positive definite."""


class Solve(ABC):
    """Solves with I + σ² P."""

    uses_start = False
    """Whether a good first guess makes it faster."""

    @abstractmethod
    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        """(I + σ² P)⁻¹ b for b `[B, N]`, sigma `[B]`; differentiable in b.

        Args:
            b: right-hand sides.
            sigma: noise levels.
            start: a first guess, `[B, N]`, for iterative solves.
        """

    @abstractmethod
    def log_determinant(self, sigma: Tensor) -> Tensor:
        """The log-determinant of I + σ² P, float64 `[B]`; not differentiable in σ."""

    @property
    def residual(self) -> float:
        """Largest relative residual of the latest call; direct solves leave rounding only: 0."""
        return 0.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def solver_of(precision: Precision) -> Solve:
    """The solve that suits a graph and its covariances.

    Raises:
        IndefiniteError: P is not positive definite.
    """
    if isinstance(precision, LevelledPrecision):
        return PerLevel(precision)
    assert isinstance(precision, ComposedPrecision)
    if isinstance(precision.covariances, Separable):
        return Channelwise(precision)
    if precision.graph.n_elements <= SMALL:
        return Eigen(precision)
    if _common_floor(precision) is not None:
        return SmallSpace(precision)
    periods = shifts(precision)
    if periods is not None:
        return Circulant(precision, periods)
    if _is_tree(precision.graph) and precision.n_entries <= SPARSE_ENTRIES:
        return SparseFactors(precision)
    return ConjugateGradients(precision)


def _common_floor(precision: ComposedPrecision) -> float | None:
    """δ, where all regions are low rank plus the same δ I."""
    floors = {getattr(block.precisions, "floor", None) for block in precision.blocks}
    return floors.pop() if len(floors) == 1 else None


def _is_tree(graph: RegionGraph) -> bool:
    known = graph.junction_tree
    return bool(graph.validate().junction_tree if known is None else known)


def is_definite(precision: Precision) -> bool | None:
    """Whether P is positive definite; None: too large to tell before it is solved with.

    By eigenvalues, or the signs of the pivots of a factorisation.
    """
    try:
        solve = solver_of(precision)
    except IndefiniteError:
        return False
    parts = solve.parts if isinstance(solve, PerLevel) else (solve,)
    inner = (part.places if isinstance(part, Channelwise) else part for part in parts)
    untested = any(isinstance(s, ConjugateGradients) and not s.tested for s in inner)
    return None if untested else True


def least_shrinkage(precision: Precision) -> float | None:
    """The least λ* such that P is positive definite for every λ in [λ*, 1], to about 1e-3.

    The definite set need not be an interval: a grid of 1/20 is walked down from 1, and the gap
    halved where it first fails. None: too large to tell.
    """

    def definite(shrinkage: float) -> bool | None:
        try:
            return is_definite(precision.shrunk(shrinkage))
        except GraphError:  # a region's own covariance is singular
            return False

    if definite(0.95) is None:
        return None
    steps = [step / 20 for step in range(20)]
    lower = next((step for step in reversed(steps) if not definite(step)), 0.0)
    upper = min(lower + 0.05, 1.0)
    if lower == 0 and definite(0.0):
        return 0.0
    while upper - lower > 1e-3:
        middle = (lower + upper) / 2
        lower, upper = (lower, middle) if definite(middle) else (middle, upper)
    return upper


def least_change(make: Callable[[float, float], Precision]) -> Precision:
    """The first definite P: as it is, with jitter, or with the least shrinkage λ*.

    Args:
        make: (λ, jitter) to P.

    Raises:
        GraphError: even λ = 1 does not help, or it is too large to tell.
    """
    for jitter in JITTERS:
        try:
            precision = make(0.0, jitter)
        except GraphError:  # a region's own covariance is singular or indefinite
            continue
        if is_definite(precision) is not False:
            return precision
    marginal = make(1.0, 0.0)  # raises where no shrinkage helps
    least = least_shrinkage(marginal)
    if least is None:
        raise GraphError(
            f"Posterior: the least shrinkage of {marginal.graph.n_elements} elements is not looked "
            f"for beyond {TESTED}, and a region's own covariance needs some. Give shrinkage=."
        )
    return marginal.shrunk(least)


def _indefinite(precision: Precision, smallest: float | None) -> IndefiniteError:
    shown = "" if smallest is None else f", its smallest eigenvalue is {smallest:.3g}"
    changed = f" at shrinkage {precision.shrinkage:g}" if precision.shrinkage else ""
    return IndefiniteError(
        f"Posterior: the composed precision P is not positive definite{changed}{shown}. Read all "
        "covariances off one estimate (fit_covariances); on a graph with loops also shrink them: "
        'Posterior(covariances, shrinkage="least") tries jitter, then the least shrinkage λ*, and '
        "reports it. shrinkage=1 is the marginal rule."
    )


class Eigen(Solve):
    """One eigendecomposition P = Q diag(λ) Qᵀ for every σ, sample and device."""

    def __init__(self, precision: ComposedPrecision) -> None:
        self.values, self.vectors = torch.linalg.eigh(precision.dense())
        if len(self.values) and self.values[0] <= 0:
            raise _indefinite(precision, self.values[0].item())
        self._placed: dict[Any, tuple[Tensor, Tensor]] = {}

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        values, vectors = self._like(b)
        return (b @ vectors / (1 + sigma[:, None] ** 2 * values)) @ vectors.T

    def log_determinant(self, sigma: Tensor) -> Tensor:
        ratio = sigma.double()[:, None] ** 2 * self.values.to(sigma.device)
        return torch.log1p(ratio).sum(dim=1)

    def _like(self, b: Tensor) -> tuple[Tensor, Tensor]:
        key = (b.device, b.dtype)
        if key not in self._placed:
            with torch.inference_mode(False):
                self._placed[key] = self.values.to(*key), self.vectors.to(*key)
        return self._placed[key]


class Channelwise(Solve):
    """Σ_r = C ⊗ S_r, so P = C⁻¹ ⊗ P_S: in the eigenbasis of C, channel by channel.

    With C = V diag(μ) Vᵀ a rotated channel solves with I + (σ²/μ) P_S, all in one batch.
    """

    def __init__(self, precision: ComposedPrecision) -> None:
        given = precision.covariances
        assert isinstance(given, Separable)
        inner = without_channels(precision.graph)
        self.n_places = inner.n_elements
        places = ComposedPrecision(inner, given.places, precision.shrinkage, precision.jitter)
        self.values, self.vectors = torch.linalg.eigh(given.channels)
        self.places = solver_of(places)
        self.uses_start = self.places.uses_start

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        levels = sigma[:, None] / self.values.sqrt().to(b)
        guess = None if start is None else self._rotated(start, self.vectors.T)
        solved = self.places(self._rotated(b, self.vectors.T), levels.reshape(-1), guess)
        return self._rotated(solved, self.vectors).reshape(b.shape)

    def _rotated(self, v: Tensor, rotation: Tensor) -> Tensor:
        turned: Tensor = rotation.to(v) @ v.reshape(-1, len(rotation), self.n_places)
        return turned.reshape(-1, self.n_places)

    def log_determinant(self, sigma: Tensor) -> Tensor:
        levels = sigma.double()[:, None] / self.values.sqrt().to(sigma.device)
        each = self.places.log_determinant(levels.reshape(-1))
        return each.reshape(levels.shape).sum(dim=1)

    @property
    def residual(self) -> float:
        return self.places.residual


class Circulant(Solve):
    """P that repeats with the strides of periodic windows: a small block a frequency.

    Args:
        precision: of windows that share their covariances.
        periods: how many shifts leave P alike, an axis; see `shifts`.
    """

    def __init__(self, precision: ComposedPrecision, periods: Sequence[int]) -> None:
        shape = precision.graph.event_shape
        self.periods = tuple(periods)
        self.strides = tuple(n // k for n, k in zip(shape, periods, strict=True))
        elements = torch.arange(prod(shape))
        block, within = self._split(elements, shape)
        self.order = torch.empty(prod(self.periods), prod(self.strides), dtype=torch.int64)
        self.order[block, within] = elements
        kernel = self._kernel(precision).reshape(*self.periods, *[prod(self.strides)] * 2)
        frequencies = torch.fft.fftn(kernel, dim=self._axes)
        self.values, self.vectors = torch.linalg.eigh(frequencies.flatten(0, len(shape) - 1))
        if self.values.min() <= 0:
            raise _indefinite(precision, self.values.min().item())
        self._placed: dict[Any, tuple[Tensor, Tensor, Tensor]] = {}

    @property
    def _axes(self) -> list[int]:
        return list(range(len(self.periods)))

    def _split(self, elements: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Which block an element lies in, and where: both flattened."""
        block, within = torch.zeros_like(elements), torch.zeros_like(elements)
        rest, sides = elements, list(zip(shape, self.periods, self.strides, strict=True))
        scale = [1, 1]
        for size, period, stride in reversed(sides):
            place, rest = rest % size, rest // size
            block, within = (
                block + scale[0] * (place // stride),
                within + scale[1] * (place % stride),
            )
            scale = [scale[0] * period, scale[1] * stride]
        return block, within

    def _kernel(self, precision: ComposedPrecision) -> Tensor:
        """P[(k, i), (0, j)] for every block k and places i, j: `[shifts, b, b]`."""
        b = prod(self.strides)
        kernel = torch.zeros(prod(self.periods), b, b, dtype=torch.float64)
        for part in precision.blocks:
            group = part.group
            assert isinstance(group, WindowGroup)
            first = group.select(np.flatnonzero(self._representative(group)))
            index = first.indices(0, len(first)).reshape(len(first), -1)
            block, within = self._split(index, precision.graph.event_shape)
            lag = self._difference(block[:, :, None], block[:, None])
            rows, columns = within[:, :, None], within[:, None]
            values = (part.counts[0] * part.precisions.dense()).expand(len(first), -1, -1)
            kernel.index_put_((lag, rows, columns), values, accumulate=True)
        return kernel

    def _representative(self, group: WindowGroup) -> "np.ndarray":
        """Which windows are not shifts of an earlier one."""
        counts = [len(axis.starts) for axis in group.axes]
        places = np.unravel_index(group.rows.numpy(), counts)
        earliest = (p < n // k for p, n, k in zip(places, counts, self.periods, strict=True))
        chosen: np.ndarray = np.logical_and.reduce(list(earliest))
        return chosen

    def _difference(self, a: Tensor, b: Tensor) -> Tensor:
        """Block a minus block b, on the torus of shifts, flattened."""
        total, scale = torch.zeros_like(a - b), 1
        for period in reversed(self.periods):
            total = total + scale * ((a % period - b % period) % period)
            a, b, scale = a // period, b // period, scale * period
        return total

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        if not len(b):
            return torch.zeros_like(b)
        values, vectors, order = self._like(b)
        blocks = b[:, order].reshape(len(b), *self.periods, -1)
        axes = [axis + 1 for axis in self._axes]
        waves = torch.fft.fftn(blocks, dim=axes).reshape(len(b), *order.shape).transpose(0, 1)
        along = (waves @ vectors.conj()) / (1 + sigma[:, None] ** 2 * values[:, None])
        solved = (along @ vectors.mT).transpose(0, 1).reshape(blocks.shape)
        back = torch.fft.ifftn(solved, dim=axes).real.reshape(len(b), -1)
        return torch.zeros_like(b).index_copy(1, order.reshape(-1), back)

    def log_determinant(self, sigma: Tensor) -> Tensor:
        ratio = sigma.double()[:, None] ** 2 * self.values.reshape(-1).to(sigma.device)
        return torch.log1p(ratio).sum(dim=1)

    def _like(self, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        key = (b.device, b.dtype)
        if key not in self._placed:
            complex_dtype = torch.complex64 if b.dtype == torch.float32 else torch.complex128
            with torch.inference_mode(False):
                self._placed[key] = (
                    self.values.to(*key),
                    self.vectors.to(b.device, complex_dtype),
                    self.order.to(b.device),
                )
        return self._placed[key]


def shifts(precision: ComposedPrecision) -> tuple[int, ...] | None:
    """How many shifts of every axis leave P alike; None: none do, or the blocks are too large."""
    groups = [block.group for block in precision.blocks]
    windows = [g for g in groups if isinstance(g, WindowGroup) and g.uniform]
    alike = all(block.precisions.shared for block in precision.blocks)
    if len(windows) < len(groups) or not windows or not alike:
        return None
    shape = precision.graph.event_shape
    periods = tuple(gcd(*(_period(g.axes[a]) for g in windows)) for a in range(len(shape)))
    block = prod(shape) // prod(periods)
    fits = block <= SMALL and block * prod(shape) <= SPARSE_ENTRIES
    return periods if prod(periods) > 1 and fits else None


def _period(axis: AxisWindows) -> int:
    """How many shifts carry the windows of an axis into themselves."""
    n = len(axis.starts)
    if axis.size % n or not (np.diff(axis.starts) % axis.size == axis.size // n).all():
        return 1
    return n


class _LatestFactors:
    """Sparse LU factors by σ, the latest few."""

    def __init__(self, matrix: Callable[[float], Any], **options: Any) -> None:
        self.matrix, self.options = matrix, options
        self._kept: OrderedDict[float, Any] = OrderedDict()

    def __call__(self, sigma: float) -> Any:
        if sigma not in self._kept:
            self._kept[sigma] = linalg.splu(self.matrix(sigma).tocsc(), **self.options)
            if len(self._kept) > KEPT_FACTORS:
                self._kept.popitem(last=False)
        return self._kept[sigma]


def _by_level(b: Tensor, sigma: Tensor, solve: Callable[[Any, float], Any]) -> Tensor:
    """Solves in float64 on the CPU, a distinct σ at a time: `solve([N, rows], σ) -> [N, rows]`."""
    right = b.detach().cpu().double().numpy()
    out = np.empty_like(right)
    levels = sigma.detach().cpu().double().numpy()
    for level in np.unique(levels):
        rows = levels == level
        out[rows] = solve(np.ascontiguousarray(right[rows].T), float(level)).T
    return torch.from_numpy(out).to(b)


class SparseFactors(Solve):
    """A sparse LU factorisation a σ, kept for the latest few; on the CPU, in float64.

    Elimination in minimum-degree order: on a junction tree the work is linear in its cliques.
    """

    def __init__(self, precision: ComposedPrecision) -> None:
        self.matrix = precision.sparse()
        self.factors = _LatestFactors(self._at, **UNPIVOTED)
        if not _positive_pivots(self.matrix):
            raise _indefinite(precision, None)

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        solved: Tensor = _Symmetric.apply(b, sigma, self._solve)
        return solved

    def log_determinant(self, sigma: Tensor) -> Tensor:
        logs = [np.log(self.factors(s).U.diagonal()).sum() for s in sigma.tolist()]
        return torch.tensor(logs, dtype=torch.float64, device=sigma.device)

    def _solve(self, b: Tensor, sigma: Tensor) -> Tensor:
        return _by_level(b, sigma, lambda right, level: self.factors(level).solve(right))

    def _at(self, sigma: float) -> Any:
        return sparse.eye_array(self.matrix.shape[0], format="csc") + sigma**2 * self.matrix


UNPIVOTED: dict[str, Any] = {
    "permc_spec": "MMD_AT_PLUS_A",
    "diag_pivot_thresh": 0.0,
    "options": {"SymmetricMode": True},
}
"""Of a symmetric matrix: rows are not permuted, so that the pivots' signs are its inertia."""


def _positive_pivots(matrix: Any) -> bool:
    try:
        return bool((linalg.splu(matrix, **UNPIVOTED).U.diagonal() > 0).all())
    except RuntimeError:  # exactly singular
        return False


class SmallSpace(Solve):
    """Low rank plus δ I, in the space of all regions' directions; on the CPU, in float64.

    A sparse LU factorisation there a σ: `[m, m]`, m the counted regions' ranks together.
    """

    def __init__(self, precision: ComposedPrecision) -> None:
        low = [(b, b.precisions) for b in precision.blocks]
        known = [(b, p) for b, p in low if isinstance(p, LowRankPrecisions)]
        parts = [_directions(b, p, precision.graph.n_elements) for b, p in known]
        self.floor = known[0][1].floor
        self.w = sparse.hstack([w for w, _ in parts], format="csc")
        self.signs = np.concatenate([signs for _, signs in parts])
        self.gram = (self.w.T @ self.w).tocsc()
        self.factors = _LatestFactors(self._at, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.1)
        if not self._definite():
            raise _indefinite(precision, None)

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        solved: Tensor = _Symmetric.apply(b, sigma, self._solve)
        return solved

    def log_determinant(self, sigma: Tensor) -> Tensor:
        logs = [self._log_determinant(s) for s in sigma.tolist()]
        return torch.tensor(logs, dtype=torch.float64, device=sigma.device)

    def _log_determinant(self, sigma: float) -> float:
        """N log(1 + σ²/δ) + log |det(S - τ WᵀW)|."""
        inside = np.log(np.abs(self.factors(sigma).U.diagonal())).sum()
        return float(self.w.shape[0] * np.log1p(sigma**2 / self.floor) + inside)

    def _solve(self, b: Tensor, sigma: Tensor) -> Tensor:
        return _by_level(b, sigma, self._solve_level)

    def _solve_level(self, b: Any, sigma: float) -> Any:
        tau = sigma**2 / (sigma**2 + self.floor)
        return (1 - tau) * (b + tau * (self.w @ self.factors(sigma).solve(self.w.T @ b)))

    def _at(self, sigma: float) -> Any:
        tau = sigma**2 / (sigma**2 + self.floor) if sigma < np.inf else 1.0
        return sparse.diags_array(self.signs) - tau * self.gram

    def _definite(self) -> bool:
        """Whether S - WᵀW has as many negative eigenvalues as S (Haynsworth's inertia)."""
        matrix = self._at(np.inf).tocsc()
        if matrix.shape[0] <= SMALL_SPACE:
            values = np.linalg.eigvalsh(matrix.toarray())
        else:
            values = linalg.splu(matrix, **UNPIVOTED).U.diagonal()
        return bool((values < 0).sum() == (self.signs < 0).sum() and (values != 0).all())


SMALL_SPACE = 2_000
"""Directions up to which definiteness is read off eigenvalues, not off pivots."""


def _directions(block: Block, low: LowRankPrecisions, n_elements: int) -> tuple[Any, Any]:
    """A block's columns |c_r g_r|^½ A_rᵀ U_r of W, sparse `[N, n k]`, and the signs of c_r."""
    (n, d), k = block.index.shape, low.vectors.shape[2]
    weights = (block.counts[:, None] * low.gains).expand(n, k)
    scaled = low.vectors * weights.abs().sqrt()[:, None]
    rows = block.index[:, :, None].expand(n, d, k)
    columns = torch.arange(n * k).reshape(n, 1, k).expand(n, d, k)
    values, i, j = (t.reshape(-1).numpy() for t in (scaled, rows, columns))
    signs = block.counts.sign()[:, None].expand(n, k)
    return sparse.csc_array((values, (i, j)), (n_elements, n * k)), signs.reshape(-1).numpy()


class PerLevel(Solve):
    """P depends on σ: a solve for each of the latest few σ.

    Derivatives with respect to σ leave out that of P(σ).
    """

    def __init__(self, precision: LevelledPrecision) -> None:
        self.precision = precision
        self.parts = tuple(solver_of(part) for part in precision.parts)  # tests each of them
        self._kept: OrderedDict[float, Solve] = OrderedDict()
        self._residual = 0.0

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        out, self._residual = torch.zeros_like(b), 0.0
        for level in sigma.detach().unique().tolist():
            rows = (sigma == level).nonzero()[:, 0]
            solve = self._at(level)
            guess = None if start is None else start[rows]
            out = out.index_copy(0, rows, solve(b[rows], sigma[rows], guess))
            self._residual = max(self._residual, solve.residual)
        return out

    def log_determinant(self, sigma: Tensor) -> Tensor:
        each = [self._at(s).log_determinant(sigma.new_tensor([s])) for s in sigma.tolist()]
        return torch.cat(each) if each else sigma.double()

    def _at(self, sigma: float) -> Solve:
        if sigma not in self._kept:
            with torch.inference_mode(False):
                self._kept[sigma] = solver_of(self.precision.at(sigma))
            if len(self._kept) > KEPT_FACTORS:
                self._kept.popitem(last=False)
        return self._kept[sigma]

    @property
    def residual(self) -> float:
        return self._residual


class ConjugateGradients(Solve):
    """Matrix-free, preconditioned by the diagonal, on the state's device, in float64.

    Attributes:
        tested: whether P was factorised to see that it is definite; beyond `TESTED` elements it is
            found out on the way.
        steps: of the latest call.
    """

    uses_start = True

    def __init__(self, precision: ComposedPrecision, *, most_steps: int = 500) -> None:
        self.precision = precision
        self.most_steps = most_steps
        self.steps = 0
        self._residual = 0.0
        self._placed: dict[Any, Any] = {}
        self.tested = precision.graph.n_elements <= TESTED
        if self.tested and not _positive_pivots(precision.sparse()):
            raise _indefinite(precision, None)

    @property
    def residual(self) -> float:
        return self._residual

    def __call__(self, b: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        guess = None if start is None else start.detach()
        solved: Tensor = _Symmetric.apply(b, sigma, partial(self._solve, start=guess))
        return solved

    def log_determinant(self, sigma: Tensor) -> Tensor:
        raise GraphError(
            f"Evidence: log det(I + σ² P) of {self.precision.graph.n_elements} elements is not "
            f"computed beyond {SMALL} elements, except on junction trees, for low rank and on "
            "periodic windows. The score needs none."
        )

    def product(self, v: Tensor) -> Tensor:
        """P v for v `[B, N]`."""
        total, no_sigma = torch.zeros_like(v), v.new_zeros(len(v))
        for index, counts, precisions in self._like(v):
            weighted = precisions.times(v[:, index], no_sigma) * counts[:, None]
            total.index_add_(1, index.reshape(-1), weighted.flatten(1))
        return total

    def _like(self, v: Tensor) -> Any:
        key = (v.device, v.dtype)
        if key not in self._placed:
            with torch.inference_mode(False):
                self._placed[key] = [
                    (
                        block.index.to(v.device),
                        block.counts.to(*key),
                        block.precisions.to(*key),
                    )
                    for block in self.precision.blocks
                ]
        return self._placed[key]

    def _diagonal(self, v: Tensor) -> Tensor:
        total = v.new_zeros(v.shape[1])
        for index, counts, precisions in self._like(v):
            diagonal = precisions.diagonal().expand(index.shape)
            total.index_add_(0, index.reshape(-1), (counts[:, None] * diagonal).reshape(-1))
        return total

    def _solve(self, right: Tensor, sigma: Tensor, start: Tensor | None = None) -> Tensor:
        b, s2 = right.double(), sigma.double()[:, None] ** 2
        scale = 1 / (1 + s2 * self._diagonal(b)).clamp(min=1e-12)
        norm = b.norm(dim=1).clamp(min=torch.finfo(b.dtype).tiny)
        x, r = self._first(b, s2, start, norm)
        z = scale * r
        p, rz = z, (r * z).sum(dim=1, keepdim=True)
        tolerance = 20 * torch.finfo(b.dtype).eps
        for number in range(self.most_steps):
            self.steps = number
            self._residual = float((r.norm(dim=1) / norm).max()) if len(b) else 0.0
            if self._residual <= tolerance:
                return x.to(right)
            product = p + s2 * self.product(p)
            curvature = (p * product).sum(dim=1, keepdim=True)
            active = r.norm(dim=1, keepdim=True) > tolerance * norm[:, None]
            if (active & (curvature <= 0)).any():
                raise _indefinite(self.precision, None)
            step = torch.where(active, rz / torch.where(active, curvature, 1.0), 0)
            x, r = x + step * p, r - step * product
            z = scale * r
            rz, before = (r * z).sum(dim=1, keepdim=True), rz
            p = z + torch.where(active, rz / torch.where(active, before, 1.0), 0) * p
        if self._residual > ACCEPTED:
            raise ScoreError(
                f"Posterior: conjugate gradients left a relative residual of {self._residual:.2g} "
                f"after {self.most_steps} steps. Better conditioned covariances (shrinkage=), or "
                "float64, help."
            )
        return x.to(right)

    def _first(
        self, b: Tensor, s2: Tensor, start: Tensor | None, norm: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A first guess and its residual: `start` where that is nearer than 0."""
        if start is None or start.shape != b.shape:
            return torch.zeros_like(b), b.clone()
        x = start.to(b)
        r = b - x - s2 * self.product(x)
        nearer = (r.norm(dim=1) < norm)[:, None]
        return torch.where(nearer, x, 0), torch.where(nearer, r, b)


class _Symmetric(torch.autograd.Function):
    """x = M⁻¹ b with M = I + σ² P: ∂x/∂b = M⁻¹, and ∂x/∂σ = -M⁻¹ 2σ P x = -(2/σ) M⁻¹ (b - x)."""

    @staticmethod
    def forward(ctx: Any, b: Tensor, sigma: Tensor, solve: Any) -> Tensor:
        ctx.save_for_backward(b, sigma)
        ctx.solve = solve
        solved: Tensor = solve(b, sigma)
        return solved

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        b, sigma = ctx.saved_tensors
        pulled = _Symmetric.apply(gradient, sigma, ctx.solve)
        if not ctx.needs_input_grad[1]:
            return pulled, None, None
        x = _Symmetric.apply(b, sigma, ctx.solve)
        slope = torch.where(sigma > 0, -2 / sigma.clamp(min=1e-30), 0)
        return pulled, slope * (pulled * (b - x)).sum(dim=1), None
