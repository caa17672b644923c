"""Conditioning: every conditioned score is again a score."""

from pgmdiff.conditioning.replacement import replacement

__all__ = ["replacement"]
