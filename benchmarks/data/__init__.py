"""The real data of the benchmarks, and the small networks trained on it, each with its card."""
