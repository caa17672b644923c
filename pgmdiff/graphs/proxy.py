r"""Definiteness of the composed precision of a Gaussian proxy, for a common correlation.

On loops the composed precision P = Σ_r c_r A_rᵀ Σ_r⁻¹ A_r of a proper Gaussian can be indefinite:
the composed "density" then grows without bound, and so do samples. The proxy has one variable of
unit variance per atom (block that no region splits), all pairs of the same correlation ρ, so that

    Σ_r⁻¹ = (I - t_r 1 1ᵀ) / (1 - ρ),   t_r = ρ / (1 - ρ + k_r ρ),   k_r atoms in region r
    P(ρ)  = (I - Σ_r c_r t_r 1_r 1_rᵀ) / (1 - ρ)                        for valid counts.

Definiteness is *certified*: a Cholesky factor of P - δ I in floating point, with δ above all
rounding errors, proves P ≻ 0 (Rump, "Verification of positive definiteness", 2006), and a vector
with xᵀPx < -δ xᵀx proves that P is not.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from pgmdiff.graphs.atoms import atoms, first_elements
from pgmdiff.graphs.containment import incidence
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Floats, Ints

__all__ = ["Proxy", "certified_definite", "proxy", "quotient"]


MAX_ATOMS = 400
MAX_REGIONS = 20_000
CORRELATIONS = (*(round(0.05 * step, 2) for step in range(1, 20)), 0.99)
"""Correlations for which definiteness is tested, in ascending order."""
EPS = float(np.finfo(np.float64).eps)
RESOLUTION = 1e-4
"""Width of the interval that then encloses the correlation at which definiteness is lost."""


@dataclass(frozen=True)
class Proxy:
    """The correlations for which the composed precision of the proxy is positive definite.

    Attributes:
        proper_up_to: largest correlation up to which it is certified to be definite; 0.99 is the
            last that is tested.
        improper_from: least correlation above that at which it is certainly not definite; None if
            there is none.
        n_atoms: number of variables of the proxy.
    """

    proper_up_to: float
    improper_from: float | None
    n_atoms: int


def proxy(graph: RegionGraph) -> Proxy | None:
    """The definiteness of a valid graph's proxy; None if it is too large to test.

    Source: the first lines of the module.
    """
    if graph.n_regions > MAX_REGIONS:
        return None
    contains, counts = quotient(graph)
    if contains.shape[1] > MAX_ATOMS:
        return None
    lower, upper = 0.0, None
    for rho in CORRELATIONS:
        if not _is_definite(*_precision(contains, counts, rho)):
            upper = rho
            break
        lower = rho
    if upper is None:
        return Proxy(lower, None, contains.shape[1])
    while upper - lower > RESOLUTION:
        middle = (lower + upper) / 2
        if _is_definite(*_precision(contains, counts, middle)):
            lower = middle
        else:
            upper = middle
    beyond = upper + RESOLUTION
    certain = certified_definite(*_precision(contains, counts, beyond)) is False
    return Proxy(lower, beyond if certain else None, contains.shape[1])


def quotient(graph: RegionGraph) -> tuple["sparse.csr_array", Floats]:
    """Which counted region holds which atom `[regions, atoms]`, and the counts `[regions]`."""
    regions: list[Ints] = []
    counts: list[float] = []
    for group in graph.groups:
        rows = np.flatnonzero(group.counts)
        regions += list(group.flat().numpy()[rows])
        counts += (group.counts[rows] / graph.denominator).tolist()
    labels = atoms(regions, graph.n_elements)
    held = [np.unique(labels[region]) for region in regions]
    return incidence(held, len(first_elements(labels))), np.array(counts)


def certified_definite(matrix: Floats, error: float = 0.0) -> bool | None:
    """Whether a symmetric matrix is positive definite, with proof; None if undecided.

    Args:
        matrix: float64 `[n, n]`.
        error: bound on the spectral norm of the matrix's own error.
    """
    if _is_definite(matrix, error):
        return True
    x = np.linalg.eigh(matrix)[1][:, :1]
    slack = error + 2 * (len(matrix) + 2) * EPS * float(np.linalg.norm(matrix))
    return False if float((x.T @ matrix @ x).item()) < -slack else None


def _is_definite(matrix: Floats, error: float) -> bool:
    """Whether a matrix is certified to be positive definite."""
    rounding = 2 * (len(matrix) + 2) * EPS * float(np.abs(matrix.diagonal()).sum())
    try:
        np.linalg.cholesky(matrix - (error + rounding) * np.eye(len(matrix)))
    except np.linalg.LinAlgError:
        return False
    return True


def _precision(contains: "sparse.csr_array", counts: Floats, rho: float) -> tuple[Floats, float]:
    """P(ρ), and a bound on its rounding errors."""
    sizes = contains.sum(axis=1)
    shares = counts * rho / (1 - rho + sizes * rho)
    coupled = contains.T @ sparse.diags_array(shares) @ contains
    matrix: Floats = (np.eye(contains.shape[1]) - coupled.toarray()) / (1 - rho)
    absolute = contains.T @ sparse.diags_array(np.abs(shares)) @ contains
    terms = 8 + float(contains.sum(axis=0).max(initial=0.0))
    norm = (1 + float(absolute.sum(axis=1).max(initial=0.0))) / (1 - rho)
    return matrix, terms * EPS * norm
