"""Runs one experiment, prints its tables, and writes its JSON and pictures."""

from benchmarks.__main__ import main

NAMES = (
    "groups", "infinite", "infinite_64", "motion", "network", "patches", "pyramids",
    "pyramids_learned", "sphere", "translation",
)  # fmt: skip

if __name__ == "__main__":
    main("experiments", NAMES)
