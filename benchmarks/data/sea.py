r"""Half-hourly anomalies of the sea's surface temperature, and a small denoiser of them.

The series is divided by its own slow changes, so that the rest is nearly stationary:

    a_t = (T_t - m_t) / s_t,      m the mean of 5 days around t, s² the mean of (T - m)² of 30 days

Its autocorrelation is 0.94 after an hour, 0.86 after 2, 0.66 after 4 and 0.35 after 8. Blocks of 20
days are alternately for training and held out. The data, the weights and their card are
`sea.csv.gz`, `sea.safetensors` and `sea.md` beside this file; `python -m scripts.train_real sea`
trains the weights again.
"""

import csv
import gzip
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pgmdiff.linalg import Floats
from pgmdiff.models.unet import EDMDenoiser, UNet, trained

__all__ = ["LENGTHS", "sea_anomalies", "sea_denoiser", "sea_parts", "untrained"]

LENGTHS = (16, 8, 4, 2)
"""Lengths of the crops that the model was trained on; 8 values are 4 hours."""
STEP = 1800.0
"""Seconds between two values."""
DAY = 48
BLOCK = 20 * DAY


def sea_anomalies() -> Tensor:
    """The whole half-hourly series of anomalies, `[19249]`, of mean about 0 and variance about 1.

    Two gaps (of 12 hours and of 1) are filled by straight lines; of two values for one time the
    first is kept.
    """
    with gzip.open(Path(__file__).with_name("sea.csv.gz"), "rt") as file:
        rows = list(csv.reader(file))[1:]
    when = [datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp() for time, _ in rows]
    times, first = np.unique(when, return_index=True)
    values = np.array([float(value) for _, value in rows])[first]
    celsius = np.interp(np.arange(times[0], times[-1] + 1, STEP), times, values)
    fast = celsius - _running_mean(celsius, 5 * DAY)
    anomalies = fast / np.sqrt(_running_mean(fast**2, 30 * DAY))
    return torch.from_numpy(anomalies.astype(np.float32))


def sea_parts() -> tuple[Tensor, Tensor]:
    """Alternate blocks of 20 days, `[10, 960]` each: for training, and held out."""
    series = sea_anomalies()
    blocks = series[: len(series) // BLOCK * BLOCK].reshape(-1, BLOCK)
    return blocks[0::2], blocks[1::2]


def _running_mean(values: Floats, width: int) -> Floats:
    """The mean of the `width` + 1 values around each; the ends are reflected."""
    padded = np.pad(values, width // 2, mode="reflect")
    mean: Floats = np.convolve(padded, np.full(width + 1, 1 / (width + 1)), mode="valid")
    return mean


def untrained() -> EDMDenoiser:
    """The architecture with random weights: 153,617 parameters."""
    return EDMDenoiser(UNet(channels=1, widths=(48, 64), features=48, axes=1), sigma_data=1.0)


def sea_denoiser() -> EDMDenoiser:
    """The trained denoiser of crops of the anomalies, `denoise(x, sigma)` for x `[batch, 1, n]`.

    It was trained on crops of 16, 8, 4 and 2 values, for windows and overlaps alike.
    """
    return trained(untrained(), Path(__file__).with_name("sea.safetensors"))
