"""Small networks, and bundled weights with their cards."""

from pgmdiff.models import gravel, unet

__all__ = ["gravel", "unet"]
