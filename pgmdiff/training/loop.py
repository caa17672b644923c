r"""Training the models of pieces: crops of data, and the denoising loss.

A factor model and the models of its overlaps must be marginals of one distribution. DiffCollage's
Algorithm 6 gets them from one network trained on crops of several sizes, cut from the same data:

    L = E_{crop, σ, ε} [ λ(σ) ‖D(crop + σ ε, σ) - crop‖² ],   λ(σ) = (σ² + σ_d²) / (σ σ_d)²

with ln σ ~ N(p_mean, p_std²), by default around 0.6 σ_d, and EDM's weighting λ, under which an
untrained preconditioned network scores 1 (Zhang et al., "DiffCollage: parallel generation of large
content with diffusion models", 2023, Algorithm 6; Karras et al., 2022, Table 1).
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pgmdiff.errors import ShapeError, check_scale
from pgmdiff.noise import Generator, torch_generator
from pgmdiff.scores.adapters import beside
from pgmdiff.scores.walls import received
from pgmdiff.text import brief

__all__ = ["denoising_loss", "random_crops"]


def random_crops(
    image: Tensor, shape: Sequence[int], n: int, *, generator: Generator = None
) -> Tensor:
    """Cuts `n` uniformly placed crops out of one image: `[n, channels, *shape]`.

    Args:
        image: `[channels, height, width]`.
        shape: `(height, width)` of a crop, in pixels.
        n: number of crops.
        generator: the source of the places, one stream for all; see `pgmdiff.noise.Generator`.

    Raises:
        ShapeError: a crop is larger than the image.
        PgmdiffError: the generator is a sequence.
    """
    height, width = (side - crop + 1 for side, crop in zip(image.shape[-2:], shape, strict=True))
    if height < 1 or width < 1:
        raise ShapeError(
            f"random_crops: expected a crop no larger than the image {tuple(image.shape[-2:])}, "
            f"got {tuple(shape)}. Cut smaller crops."
        )
    generator = torch_generator(generator, "random_crops")
    top = torch.randint(height, (n,), generator=generator)
    left = torch.randint(width, (n,), generator=generator)
    rows = (top[:, None] + torch.arange(shape[0]))[:, :, None]
    columns = (left[:, None] + torch.arange(shape[1]))[:, None, :]
    return image[:, rows, columns].movedim(0, 1)


def denoising_loss(
    denoise: Callable[[Tensor, Tensor], Tensor],
    clean: Tensor,
    *,
    sigma_data: float,
    p_mean: float | None = None,
    p_std: float = 1.2,
    generator: Generator = None,
) -> Tensor:
    """The weighted denoising error of a batch, averaged over its entries; see the module's formula.

    Args:
        denoise: `denoise(x, sigma)`, x `[batch, *shape]`, sigma `[batch]`.
        clean: `[batch, *shape]`.
        sigma_data: standard deviation σ_d of the data, in their units.
        p_mean: mean of ln σ; if None, ln 0.6 σ_d, which is EDM's -1.2 for its σ_d of 0.5.
        p_std: standard deviation of ln σ.
        generator: the source of the noise levels and the noise, one stream for the batch; see
            `pgmdiff.noise.Generator`. In a training loop give a `torch.Generator` or None: an
            integer would repeat the same noise at every step.

    Raises:
        PgmdiffError: sigma_data is not positive, or the generator is a sequence.
    """
    check_scale("denoising_loss", "sigma_data", sigma_data)
    p_mean = math.log(0.6 * sigma_data) if p_mean is None else p_mean
    generator = torch_generator(generator, "denoising_loss")
    normal = torch.randn(len(clean), generator=generator, dtype=clean.dtype)
    sigma = (p_mean + p_std * normal).exp().to(clean.device)
    noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype).to(clean.device)
    s = beside(sigma, clean)
    weight = (s**2 + sigma_data**2) / (s * sigma_data) ** 2
    value = received(denoise(clean + s * noise, sigma), clean, lambda: brief(denoise), cast=True)
    return (weight * (value - clean) ** 2).mean()
