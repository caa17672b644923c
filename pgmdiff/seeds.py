"""What callers pass as `generator`: there is no global random state."""

import secrets

import numpy as np
import torch

from pgmdiff.errors import PgmdiffError

__all__ = ["Seed", "torch_generator"]

Seed = int | torch.Generator | None
"""A seed; a generator, which advances; None: fresh entropy, not reproducible."""


def torch_generator(generator: Seed, who: str) -> torch.Generator:
    """A `torch.Generator` of a seed.

    Raises:
        PgmdiffError: something else.
    """
    if isinstance(generator, torch.Generator):
        return generator
    if generator is None:
        return torch.Generator().manual_seed(secrets.randbits(63))
    if not isinstance(generator, int | np.integer):
        raise PgmdiffError(
            f"{who}: expected generator= an integer seed or a torch.Generator, got "
            f"{type(generator).__name__}."
        )
    return torch.Generator().manual_seed(int(generator))
