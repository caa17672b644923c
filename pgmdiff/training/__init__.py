"""Training the models of pieces: crops of data, and the denoising loss."""

from pgmdiff.training.loop import denoising_loss, random_crops

__all__ = ["denoising_loss", "random_crops"]
