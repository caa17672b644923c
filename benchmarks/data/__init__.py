"""Real data for the benchmarks, and the small networks trained on it, each with its card."""
