"""Benchmarks: `python -m pgmdiff.benchmarks NAME` prints a table and writes JSON."""
