"""Training the models of pieces: crops of data, the denoising loss, and the loop."""

from pgmdiff.training.data import CropBatch, Crops, crops, positions, random_crops
from pgmdiff.training.loop import fit, train
from pgmdiff.training.preconditioning import EDMDenoiser, WienerFilter, denoising_loss

__all__ = [
    "CropBatch",
    "Crops",
    "EDMDenoiser",
    "WienerFilter",
    "crops",
    "denoising_loss",
    "fit",
    "positions",
    "random_crops",
    "train",
]
