r"""The bundled series model: half-hourly anomalies of the sea's surface temperature.

The series is divided by its own slow changes, so that what is left is nearly stationary:

    a_t = (T_t - m_t) / s_t,      m the mean of 5 days around t, s² the mean of (T - m)² of 30 days

Its autocorrelation is 0.94 after an hour, 0.86 after 2, 0.66 after 4, 0.35 after 8. Alternate
blocks of 20 days are for training and held out. Data, weights and how they were made: `sea.csv.gz`,
`sea.safetensors` and `sea.md` beside this file; `scripts/train_real.py` makes the weights again.
"""

import csv
import gzip
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pgmdiff.models.unet import EDMDenoiser, UNet, trained

__all__ = ["LENGTHS", "sea_anomalies", "sea_denoiser", "sea_parts", "untrained"]

LENGTHS = (16, 8, 4, 2)
"""Of the crops that the model was trained on; 8 values are 4 hours."""
STEP = 1800.0
"""Seconds between two values."""
DAY = 48
BLOCK = 20 * DAY

Floats = npt.NDArray[np.float64]


def sea_anomalies() -> Tensor:
    """The whole series of anomalies `[19249]`, half-hourly; mean about 0, variance about 1.

    Two gaps (12 hours and 1) are filled by straight lines; of two values for one time the first is
    kept.
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
    """Blocks of 20 days, `[10, 960]` each: for training, and held out. They alternate."""
    series = sea_anomalies()
    blocks = series[: len(series) // BLOCK * BLOCK].reshape(-1, BLOCK)
    return blocks[0::2], blocks[1::2]


def _running_mean(values: Floats, width: int) -> Floats:
    """Of `width` + 1 values around each; the ends are reflected."""
    padded = np.pad(values, width // 2, mode="reflect")
    mean: Floats = np.convolve(padded, np.full(width + 1, 1 / (width + 1)), mode="valid")
    return mean


def untrained() -> EDMDenoiser:
    """The architecture with random weights: about 165,000 parameters."""
    return EDMDenoiser(UNet(channels=1, widths=(48, 64), features=48, axes=1), sigma_data=1.0)


def sea_denoiser() -> EDMDenoiser:
    """The trained denoiser of crops of the anomalies, `denoise(x, sigma)` for x `[batch, 1, n]`.

    It was trained on crops of 16, 8, 4 and 2 values and serves windows and overlaps alike.
    """
    return trained(untrained(), Path(__file__).with_name("sea.safetensors"))
