"""Runs one experiment, prints its tables, and writes its JSON and pictures."""

from benchmarks.__main__ import main

NAMES = ("infinite", "motion", "pyramids", "sphere", "translation")

if __name__ == "__main__":
    main("experiments", NAMES)
