"""The paper's experiments in miniature: `python -m experiments NAME`."""
