r"""Whether the covariances of regions are those of their models.

Far above the spread of the data every denoiser is linear, whatever the data are:

    D_r(m + x, σ) - D_r(m - x, σ) ≈ 2 Σ_r (Σ_r + σ²)⁻¹ x,      σ = 5 √λ_max(Σ_r)

x is white noise of deviation σ, m the mean. The share of the right side in the left, times the
largest gain λ_max / (λ_max + σ²), is the gain g of the model; it says that the variance is
σ² g / (1 - g) in place of λ_max. Their ratio is 1 for Gaussians with true covariances, and near 1
for all but the heaviest tails. The squared cosine of both sides tells covariances of other elements
or of another order.
"""

from collections.abc import Iterator
from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pgmdiff.composition.plan import Batch, map_tensors
from pgmdiff.composition.stars import Likely
from pgmdiff.text import counted

if TYPE_CHECKING:
    from pgmdiff.composition.joint import Joint

__all__ = ["compared"]

FAR = 5.0
"""σ, in units of the largest standard deviation of a region."""
PAIRS = 8
"""Pairs of noisy states of a region."""
PROBES, MOST, ENTRIES = 2, 32, 2**19
"""Regions of a batch that are compared: two, or if each has a covariance of its own up to 32 in
all, with so many entries together."""
TIMES, ALIKE = 3.0, 0.75
"""Ratio and squared cosine beyond which a warning is given. Trained networks of ours and mixtures
of Gaussians have 0.83 to 1.27, and at least 0.92; one with a rare far mode (1 %) has 3.8."""


REMEDY = (
    "of the same data and label (functools.partial(score, label=...)), or train the network longer "
    "at large σ"
)


class Compared(NamedTuple):
    """A region, how many times its model's variances those of its covariance are, and how alike."""

    name: object
    times: float
    alike: float


def compared(joint: "Joint") -> tuple[list[str], list[str]]:
    """What the report says of the covariances of a joint, and its warnings.

    It costs some 20 rows of every model that is compared, with its own conditions, on the device
    and in the dtype of the joint's latest call, or on the CPU in float32.
    """
    device, dtype = next(reversed(joint._placed), (torch.device("cpu"), torch.float32))
    like = torch.zeros(2 * PAIRS, joint.regions.n_elements, dtype=dtype, device=device)
    try:
        found = list(_all(joint, like))
    except Exception as error:  # such as that of a model that requires a condition
        said = f"{type(error).__name__}: {error}".splitlines()[0][:100]
        where = f"on {device} in {str(dtype).removeprefix('torch.')}"
        return [
            f"covariances: not compared with the models, which failed {where} and without "
            f"conditions: {said}. After a call of the joint they are called on its device and in "
            "its dtype"
        ], []
    if not found:
        return [], []
    low, high = (end(each.times for each in found) for end in (min, max))
    said = f"covariances: {low:.2g} to {high:.2g} times what the models say, where compared"
    warnings = []
    for name, times, alike in found:
        if alike < ALIKE:
            text = "are not those that its model says: give them in the order of its elements, and"
            warnings.append(f"covariances of {name!r} {text} {REMEDY}")
        elif not 1 / TIMES <= times <= TIMES:
            text = f"are about {times:.2g} times what its model says: give both in the same units,"
            warnings.append(f"covariances of {name!r} {text} {REMEDY}")
    if len(warnings) > 1:
        warnings = [f"{warnings[0]} (and {counted(len(warnings) - 1, 'other region')})"]
    return [said], warnings


def _all(joint: "Joint", u: Tensor) -> Iterator[Compared]:
    for batch in joint.batches:
        size, rows = torch.Size(batch.group.shape).numel(), np.flatnonzero(batch.group.outer)
        few, own = PROBES, batch.precisions is not None and not batch.precisions.shared
        if own:
            few = max(few, min(MOST, ENTRIES // size**2) // len(joint.batches))
        for row in rows[:: max(1, -(-len(rows) // few))].tolist():
            yield _one(joint, u, batch, row)


@torch.no_grad()
def _one(joint: "Joint", u: Tensor, batch: Batch, row: int) -> Compared:
    chosen = torch.tensor([row])
    part = replace(
        batch,
        group=batch.group.select(chosen.numpy()),
        weights=batch.weights[chosen],
        condition=map_tensors(itemgetter(chosen), batch.condition),
        precisions=None,
        offset=0,
        spaced=None,
    )
    alone = replace(joint, batches=(part,), _kept={}, _placed={}, _limits={})
    assert joint.precision is not None, "the rule has covariances"
    given = joint.precision.covariances
    given = given.given if isinstance(given, Likely) else given
    covariance, index = given.form(part.group), part.group.indices(0, 1).reshape(-1)
    stream = torch.Generator().manual_seed(0)
    top, x = torch.randn(PAIRS + 1, 1, len(index), generator=stream).double().tensor_split([1])
    for _ in range(30):  # the largest eigenvalue
        top = covariance.times(top / top.norm())
    sigma = FAR * top.norm().sqrt().item()
    x = term = sigma * x
    expected = torch.zeros_like(x)
    for _ in range(8):  # the series of Σ (Σ + σ²)⁻¹ x in Σ / σ²
        term = covariance.times(term) / sigma**2
        expected, term = expected + term, -term

    def denoised(u: Tensor) -> Tensor:
        calls = alone.evaluate(u, torch.full_like(u[:, 0], sigma), finite=True)
        return torch.cat([chunk.gather(u) + sigma**2 * scores for chunk, scores in calls])[:, 0]

    index, mean = index.to(u.device), joint.rule.centre
    u[:, index] = 0  # the region alone is read
    centre = denoised(u[:1]) if mean is None else mean.to(u)[index]
    u[:, index] = centre + torch.cat([x, -x])[:, 0].to(u)
    plus, minus = denoised(u).double().cpu().chunk(2)
    told, expected = (plus - minus) / 2, expected[:, 0]
    product, size = (told * expected).sum(), expected.square().sum()
    gain = (product / size).item() / (1 + FAR**2)
    times = (1 - gain) / gain / FAR**2 if gain > 0 else torch.inf
    alike = (product * product.abs() / size / told.square().sum()).item()
    return Compared(part.group.name(0), min(max(times, 0.01), 100.0), alike)
