"""A strip of gravel, divided among the GPUs of one machine or of several, or among processes.

    torchrun --nproc-per-node 4 examples/over_devices.py

starts four processes on one machine. On each of two machines with eight GPUs:

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint FIRST:29500 \
        examples/over_devices.py --folder /on/both

If a process dies, torchrun ends all; if a machine falls silent, they wait for it until --timeout.
The same command, with the same or another number of processes, then goes on from the folder.
"""

import argparse
import os
from datetime import timedelta

import torch
import torch.distributed as dist

import pgmdiff
from pgmdiff.distributed import Slab
from pgmdiff.models.gravel import gravel_denoiser


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--width", type=int, default=520)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--folder", help="where the run is saved; all machines must see it")
    parser.add_argument(
        "--timeout",
        type=float,
        default=300,
        help="longest wait for another rank, in seconds: more than a step or a save takes",
    )
    given = parser.parse_args()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    backend, timeout = "nccl" if device.type == "cuda" else "gloo", timedelta(seconds=given.timeout)
    dist.init_process_group(backend, timeout=timeout)

    graph = pgmdiff.tiles((1, 16, given.width), window=(1, 16, 16), overlap=(0, 0, 8))
    network = gravel_denoiser().to(device)
    joint = pgmdiff.compose(graph, pgmdiff.from_denoiser(network), max_batch=64)
    slab = Slab(joint)  # the last axis is divided
    sigmas = pgmdiff.karras(given.steps, 0.02, 10.0)
    shape = (1, *slab.event_shape)
    u = pgmdiff.sample(slab, sigmas, shape=shape, generator=0, device=device, run=given.folder)

    print(f"{slab.ranks}: {tuple(u.shape)}, {slab.ranks.sent} bytes sent", flush=True)
    strip = slab.whole(u)  # on rank 0; None on others
    if strip is not None:
        print(f"the strip: {tuple(strip.shape)}, standard deviation {strip.std():.2f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
