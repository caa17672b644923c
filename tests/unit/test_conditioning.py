import pytest
import torch

from pgmdiff import ShapeError
from pgmdiff.conditioning import replacement
from pgmdiff.samplers import SDE, karras, sample
from tests.helpers import ar1

Q = ar1(2, 0.9)
MASK = torch.tensor([True, False])


def test_replacement_meets_its_constraint_and_is_not_the_posterior() -> None:
    """Observe u_0 = 1 of a correlated pair: the posterior of u_1 is N(.9, .19)."""
    n, y = 4000, torch.tensor([1.0, float("nan")], dtype=torch.float64)
    conditioned = replacement(Q.score, y, MASK)
    out = sample(conditioned, karras(60, 0.01, 20.0), shape=(n, 2), solver=SDE(1.0),
                 generator=0, dtype=torch.float64)  # fmt: skip
    assert (out[:, 0] - 1).abs().max() < 1e-6
    mean, error = out[:, 1].mean().item(), 4 * out[:, 1].std().item() / n**0.5
    assert mean > 0.3, "the observation is heard"
    assert mean < 0.9 - error, "but the posterior mean is not reached"


def test_bad_masks_are_named() -> None:
    with pytest.raises(ShapeError, match=r"boolean mask, got torch\.float32"):
        replacement(Q.score, torch.zeros(2), torch.ones(2))
    with pytest.raises(ShapeError, match="not finite"):
        replacement(Q.score, torch.full((2,), float("inf")), MASK)
