r"""Definiteness of the composed precision of a Gaussian proxy, for a common correlation.

On loops the composed precision P = Σ_r c_r A_rᵀ Σ_r⁻¹ A_r, to which the marginal rule tends as
σ → 0, can be indefinite: the composed "density" then grows without bound, and so do samples. The
proxy has one variable of unit variance per atom (block that no region splits), all pairs of the
same correlation ρ, so that

    Σ_r⁻¹ = (I - t_r 1 1ᵀ) / (1 - ρ),   t_r = ρ / (1 - ρ + k_r ρ),   k_r atoms in region r
    P(ρ)  = (I - Σ_r c_r t_r 1_r 1_rᵀ) / (1 - ρ)                        for valid counts.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from pgmdiff.graphs.atoms import atoms, first_elements
from pgmdiff.graphs.containment import incidence
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.linalg import Floats, Ints

__all__ = ["Proxy", "proxy"]


MAX_ATOMS = 400
MAX_REGIONS = 20_000
CORRELATIONS = (*(round(0.05 * step, 2) for step in range(1, 20)), 0.99)
"""Correlations for which definiteness is tested, in ascending order."""
RESOLUTION = 1e-4
"""Width of the interval that then encloses the correlation at which definiteness is lost."""


@dataclass(frozen=True)
class Proxy:
    """The correlations for which the composed precision of the proxy is positive definite.

    Attributes:
        improper_above: the correlation above which it is not; None if it is up to 0.99, the last
            that is tested.
        n_atoms: number of variables of the proxy.
    """

    improper_above: float | None
    n_atoms: int


def proxy(graph: RegionGraph) -> Proxy | None:
    """The definiteness of a valid graph's proxy; None if it is too large to test.

    Source: the first lines of the module.
    """
    if graph.n_regions > MAX_REGIONS:
        return None
    contains, counts = _quotient(graph)
    n_atoms = contains.shape[1]
    if n_atoms > MAX_ATOMS:
        return None

    def definite(rho: float) -> bool:
        sizes = contains.sum(axis=1)
        shares = counts * rho / (1 - rho + sizes * rho)
        coupled = (contains.T @ sparse.diags_array(shares) @ contains).toarray()
        smallest = np.linalg.eigvalsh(np.eye(n_atoms) - coupled).min(initial=np.inf)
        return bool(smallest > 1e-12 * max(n_atoms, 1))

    upper = next((rho for rho in CORRELATIONS if not definite(rho)), None)
    if upper is None:
        return Proxy(None, n_atoms)
    lower = max(rho for rho in (0.0, *CORRELATIONS) if rho < upper)
    while upper - lower > RESOLUTION:
        middle = (lower + upper) / 2
        lower, upper = (middle, upper) if definite(middle) else (lower, middle)
    return Proxy(lower, n_atoms)


def _quotient(graph: RegionGraph) -> tuple["sparse.csr_array", Floats]:
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
