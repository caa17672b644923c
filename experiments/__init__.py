"""The paper's tables and figures in miniature: `python -m experiments NAME`."""
