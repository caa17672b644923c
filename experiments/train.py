"""Trains the model of a corpus: `python -m experiments.train NAME [--steps N] [--run FOLDER]`.

The weights are written to `experiments/weights`, in bfloat16 but for the Wiener filters. The gate
is part of the experiment: `python -m experiments infinite --parts gate`.
"""

import argparse
import time
from pathlib import Path

from experiments.corpora import CORPORA
from pgmdiff.models.unet import save_weights


def main() -> None:
    """Parses the command line, trains a model and writes its weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CORPORA)
    parser.add_argument("--steps", type=int, help="fewer steps, to try it")
    parser.add_argument("--run", type=Path, help="folder of checkpoints: the same call resumes")
    parser.add_argument("--out", type=Path, help="weights to write, if not the corpus's own")
    arguments = parser.parse_args()
    corpus, start = CORPORA[arguments.name], time.process_time()
    options = corpus.training | ({"steps": arguments.steps} if arguments.steps else {})
    denoiser = corpus.train(batch=32, run=arguments.run, generator=0, progress=True, **options)
    save_weights(denoiser, arguments.out or corpus.weights)
    print(f"{time.process_time() - start:.0f} CPU-seconds")


if __name__ == "__main__":
    main()
