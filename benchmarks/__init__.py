"""Benchmarks: `python -m benchmarks NAME` prints tables and writes JSON.

Each has `run(*, smoke, device)`, and `tables(result)` and, for most, `draw(result, path)` for what
it returns.
"""
