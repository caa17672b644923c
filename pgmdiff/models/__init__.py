"""Small networks, and bundled weights with their cards."""

from pgmdiff.models import gravel, pictures, series, tissue, unet

__all__ = ["gravel", "pictures", "series", "tissue", "unet"]
