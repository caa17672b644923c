"""Small networks, and bundled weights with their cards."""

from pgmdiff.models import gravel, series, tissue, unet

__all__ = ["gravel", "series", "tissue", "unet"]
