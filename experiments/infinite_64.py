"""Infinite images of 64 × 64 patches: the parts of `infinite` with networks trained on a GPU.

The weights are not in the repository: `python -m experiments.train landscape64 --device cuda`.
"""

from experiments.infinite import draw, parts_of, run, tables

__all__ = ["PARTS", "draw", "run", "tables"]

PARTS = parts_of(64)
