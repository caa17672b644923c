"""Solves with I + σ² P, and whether P is positive definite."""
