"""Small networks, and bundled weights with their cards."""

from pgmdiff.models import gravel, series, unet

__all__ = ["gravel", "series", "unet"]
