"""Trains a model of pieces: `python -m experiments.train NAME [--steps N] [--run FOLDER]`.

The weights are written to `experiments/weights`, those of large networks to `out/weights`, in
bfloat16 but for the Wiener filters. The gate is part of the experiment: `python -m experiments
infinite --parts gate`, or `sphere`.

With `torchrun --nproc-per-node=2 -m -- experiments.train NAME` every process draws its own crops,
so that a step has twice as many.
"""

import argparse
import os
import time
from pathlib import Path

import torch.distributed as dist

from experiments import pyramid_model
from experiments.corpora import CORPORA, Corpus
from experiments.sphere_model import MODEL, Model
from pgmdiff.models.unet import save_weights

MODELS: dict[str, Corpus | Model | pyramid_model.Sea] = {
    **CORPORA, "sphere": MODEL, "pyramid": pyramid_model.MODEL,
}  # fmt: skip


def main() -> None:
    """Parses the command line, trains a model and writes its weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("--steps", type=int, help="fewer steps, to try it")
    parser.add_argument("--run", type=Path, help="folder of checkpoints: the same call resumes")
    parser.add_argument("--out", type=Path, help="weights to write, if not the corpus's own")
    parser.add_argument("--device", default=None, help="where to train, if not the CPU")
    parser.add_argument("--batch", type=int, help="crops in a step, if not the model's own number")
    arguments = parser.parse_args()
    model, start = MODELS[arguments.name], time.process_time()
    options = {"batch": 32, **model.training}
    options |= {"steps": arguments.steps} if arguments.steps else {}
    options |= {"batch": arguments.batch} if arguments.batch else {}
    options |= {"run": arguments.run, "device": arguments.device}
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    denoiser = model.train(generator=0, progress=True, **options).cpu()
    print(f"{time.process_time() - start:.0f} CPU-seconds")
    if dist.is_initialized():
        rank = dist.get_rank()
        dist.destroy_process_group()
        if rank:
            return
    weights = arguments.out or model.weights
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_weights(denoiser, weights)


if __name__ == "__main__":
    main()
