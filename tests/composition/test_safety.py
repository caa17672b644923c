"""Messages between imperfect models: they diverge undamped and untrusted, and not by default."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from benchmarks.damping import too_steep
from pgmdiff import compose, gaussian, graphs
from pgmdiff.composition import Consistent
from pgmdiff.composition.joint import Joint
from pgmdiff.composition.posterior import sharpened
from pgmdiff.gaussian import Gaussian
from pgmdiff.noise import torch_generator
from pgmdiff.samplers import Heun, karras, sample

GRAPH = graphs.tiles((26,), (8,), (2,))
PLACES = torch.arange(26)
Q = Gaussian(torch.zeros(26).double(), 0.94 ** (PLACES[:, None] - PLACES).abs().double())
COVARIANCES = gaussian.node_covariances(GRAPH, Q)
FREE = {"damping": 1.0, "trust": 1e100, "least_share": 0.0}
KINDS = ["rough", "smooth"]


def imperfect(kind: str, **options: float) -> Joint:
    """Denoisers whose Jacobian is too large in their directions of small or of large variance.

    It is 2 times too large at σ = 3 and 23 times at σ = 40. The network of the sea's temperatures
    errs in the first way, by as much: see `python -m benchmarks damping`.
    """
    return compose(GRAPH, too_steep(kind, Q), rule=Consistent(COVARIANCES, **options))


def sizes(joint: Joint, sigma: float, calls: int) -> list[float]:
    """rms(σ η) over all regions and samples, after every call of a run at one state."""
    u, run, found = Q.noised(sigma).sample(8, generator=1), joint.remembering(), []
    for _ in range(calls):
        run(u, sigma)
        found.append(sigma * float(run.memory["messages"].square().mean().sqrt()))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [10.0, 40.0])
def test_messages_without_damping_and_trust_grow_without_bound(kind: str, sigma: float) -> None:
    """By a factor per call, until any bound is reached; with the defaults they stay within 1."""
    grown = sizes(imperfect(kind, **FREE), sigma, 30)
    assert all(later > 2 * size for size, later in pairwise(grown[5:]))
    assert grown[-1] > 1e6 * grown[5]
    assert max(sizes(imperfect(kind), sigma, 30)) <= 1 + 1e-12


def drawn(kind: str, **options: float) -> Tensor:
    """50 samples, always of the same noise."""
    joint, levels = imperfect(kind, **options), karras(20, 0.01, 40.0)
    shared = {"solver": Heun(), "generator": 2, "dtype": torch.float64}
    return sample(joint, levels, shape=(50, 26), **shared)


@pytest.mark.filterwarnings("ignore:.*exploded")
@pytest.mark.filterwarnings("ignore:sample. samples have")  # undamped and untrusted
def test_samples_stay_near_those_without_messages() -> None:
    """Within a twentieth of their spread by default; undamped and untrusted they are far away."""
    none = drawn("rough", trust=0.0)
    default, free = (
        float((drawn("rough", **options) - none).square().mean().sqrt()) for options in ({}, FREE)
    )
    assert 0 < default < 0.05 * none.std()
    assert free > 5 * default


@pytest.mark.parametrize("options", [{}, {"trust": 0.0}, {"least_share": 0.0}])
def test_models_that_vary_more_than_their_covariances_say_are_told(
    options: dict[str, float],
) -> None:
    """In the smooth direction, where no share protects from them; with messages and without."""
    with pytest.warns(UserWarning, match=r"samples have [\d.]+ times the variance"):
        assert drawn("smooth", **options).isfinite().all()


def test_a_least_share_keeps_messages_of_rough_errors_small() -> None:
    """What a model is wrong by in directions of little variance is not multiplied without bound."""
    for sigma in (10.0, 40.0):
        free = {"damping": 0.5, "trust": 1e100}
        with_share = max(sizes(imperfect("rough", **free), sigma, 30))
        without = max(sizes(imperfect("rough", **free, least_share=0.0), sigma, 30))
        assert with_share < 5 < 1e3 < without


@pytest.mark.parametrize("damping", [0.25, 0.5, 1.0])
def test_at_the_usual_least_share_no_update_leaves_a_region_farther_from_what_is_asked(
    damping: float,
) -> None:
    """Whatever the covariances say, for Jacobians between 0 and 1; at a third of it, some do.

    Distances of d_r from A_r s, which is held, are those of F = I + σ² (Σ_r + ε σ² I)⁻¹, by which
    messages move; see the module.
    """
    graph, generator = graphs.tiles((10,), (4,), (2,)), torch_generator(3, "Jacobians")
    factors = torch.randn(20, 10, 10, generator=generator).double()
    jacobians = {}
    for width in (2, 4):
        vectors, _ = torch.linalg.qr(torch.randn(width, width, generator=generator).double())
        jacobians[width] = (vectors * torch.linspace(0.2, 1.0, width)) @ vectors.T

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        return (x @ jacobians[x.shape[1]] - x) / sigma[:, None] ** 2

    def grown(share: float) -> float:
        """The largest ratio of the square of a distance after an update to that before."""
        found = []
        for factor in factors:
            whole = factor @ torch.diag(torch.logspace(-3, 3, 10).double()) @ factor.T
            index = {name: graph.elements(name) for name in graph.names}
            covariances = {name: whole[i][:, i] for name, i in index.items()}
            joint = compose(graph, score, rule=Consistent(covariances))
            rule = joint.rule
            assert isinstance(rule, Consistent)
            for level in (0.1, 1.0, 10.0):
                noise = torch.randn(3, 10, generator=generator).double()
                u, sigma = level * noise, torch.full((3,), level).double()
                asked, _, before = rule.heard(joint.evaluate, u, sigma, None, None, share=share)
                messages = torch.cat([(damping * a.move).flatten(1) for a in before], dim=1)
                now, _, after = rule.heard(joint.evaluate, u, sigma, None, messages, share=share)
                for old, new in zip(before, after, strict=True):
                    gap = new.gap + new.chunk.gather(asked) - new.chunk.gather(now)
                    moved = sharpened(gap, new.chunk, sigma, torch.full((3, 1), share * level**2))
                    ratios = (gap * moved).sum(dim=2) / (old.gap * old.move).sum(dim=2)
                    found.append(float(ratios.max()))
        return max(found)

    usual = damping / (2 - damping)
    assert damping != 0.5 or usual == Consistent.least_share
    assert grown(usual) <= 1 + 1e-6
    assert grown(usual / 3) > 1.5
