"""The training loop: denoising of crops, for one network or one per model of a graph.

`fit` cuts crops, preconditions networks and trains each with `train`, a plain loop that can be read
and replaced: its parts are `crops`, `EDMDenoiser` and `denoising_loss`.
"""

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from pgmdiff import store
from pgmdiff.errors import PgmdiffError
from pgmdiff.graphs.regions import Condition
from pgmdiff.noise import SECOND, START, Generator, Noise, seed_of, split_seed
from pgmdiff.samplers.store import ELSEWHERE, Run, check_same
from pgmdiff.training.data import Crops, Where, crops_of
from pgmdiff.training.preconditioning import EDMDenoiser, denoising_losses

__all__ = ["fit", "train"]

EVERY = 50
"""Steps after which the progress bar shows new losses."""


def fit(
    where: Where,
    network: nn.Module | Mapping[Any, nn.Module],
    data: Any,
    *,
    steps: int,
    sigma_data: float | None = None,
    half: float = 0.5,
    conditions: Mapping[Any, Condition] | None = None,
    labels: Mapping[str, Tensor] | None = None,
    position: bool = False,
    null_condition: Condition | None = None,
    null_probability: float = 0.1,
    run: Run | str | Path | None = None,
    generator: Generator = None,
    **options: Any,
) -> Any:
    """Trains the models of a graph's nodes as denoisers of crops of data.

    A network is called as `network(x, noise, **condition)`, x `[batch, *shape]` of about unit
    variance, noise `[batch]`, and preconditioned by `EDMDenoiser`. An `EDMDenoiser` is trained
    further, with its own σ_d. What is given is not changed.

    Args:
        where, data, half, conditions, labels, position, null_condition, null_probability: what is
            cut from what, and what the networks get with it; see `crops`.
        network: one network for all nodes, or a mapping from model id (of crops: from shape) to
            network. Those are trained one after the other, each on its own nodes.
        steps: number of steps of every network.
        sigma_data: standard deviation of the data, in their units; if None, that of crops, which
            gives the mean, too. With a value the mean is taken to be 0.
        run: a `Run`, or its folder, for checkpoints: the same call, made again after the process
            was killed, gives the same result bit for bit. Several networks have a folder each.
        generator: the source of all random choices, one stream for all.
        options: `batch`, `lr` and others; see `train`.

    Returns:
        The averaged `EDMDenoiser`, in evaluation mode, for `from_denoiser`; or one per model id.

    Raises:
        ScoreError: a node has no network, or a network returns another shape.
        PgmdiffError: see `crops` and `train`.

    Source: Zhang et al., "DiffCollage: parallel generation of large content with diffusion
    models", 2023, Algorithms 1, 2 and 6.

    Example:
        >>> import torch
        >>> from pgmdiff.graphs import tiles
        >>> from pgmdiff.models.series import SeriesNet
        >>> from pgmdiff.training import fit
        >>> series = torch.randn(100, 32).cumsum(1)
        >>> denoiser = fit(tiles((32,), 8, 4), SeriesNet(), series, steps=2, generator=0)
        >>> denoiser(series[:, :8], torch.ones(100)).shape
        torch.Size([100, 8])
    """
    networks = network if isinstance(network, Mapping) else None
    null = {"position": position, "null_condition": null_condition}
    found = crops_of(where, data, networks, half, conditions, labels, null_probability, **null)
    several = networks is not None and len(found) > 1
    run, seeds = Run.of(run), list[int | None]([None] * len(found))
    if generator is not None:
        seed = seed_of(generator, "fit")
        seeds = [*Noise.of(seed, len(found)).seeds(0)] if several else [seed]
    trained: dict[int, EDMDenoiser] = {}
    result = {}
    for place, (name, cut) in enumerate(found.items()):
        own = network if isinstance(network, nn.Module) else network[name]
        if id(own) not in trained:
            folder = run
            if several and run is not None:
                folder = Run(Path(run.folder) / f"{place:04d}", run.every)
            denoiser = _preconditioned(own, cut, sigma_data, _common(seeds[place]))
            trained[id(own)] = train(
                denoiser, cut, steps=steps, run=folder, generator=seeds[place], **options
            )
        result[name] = trained[id(own)]
    return result[None] if networks is None else result


def train(
    denoiser: EDMDenoiser,
    crops: Crops,
    *,
    steps: int,
    batch: int = 64,
    lr: float = 1e-3,
    warmup: int | None = None,
    clip: float = 1.0,
    ema: float = 0.9995,
    p_mean: float | None = None,
    p_std: float = 1.2,
    per_element: bool = False,
    run: Run | str | Path | None = None,
    generator: Generator = None,
    device: torch.device | str | None = None,
    bf16: bool = True,
    progress: bool = False,
) -> EDMDenoiser:
    """Trains one denoiser on crops with Adam, and returns its exponential moving average.

    Step k is a function of the seed, k and the state before it alone. Under an initialised process
    group every rank draws its own crops, `batch` each, and gradients are averaged; rank 0 saves.

    Args:
        denoiser: the denoiser, which is copied.
        crops: what it is trained on.
        steps, batch: number of steps, and of crops in each.
        lr, warmup: learning rate, which rises linearly over the first steps (if None, a tenth of
            all and at most 200), and falls to 0 at the last as half a cosine.
        clip: largest norm of the gradient.
        ema: decay of the average per step; it is at most (k + 1) / (k + 10) in step k.
        p_mean, p_std, per_element: the noise levels; see `denoising_loss`.
        run, generator: see `fit`. Crops of a `DataLoader` are in its own order, so that a resumed
            run differs from an uninterrupted one.
        device: where to train; if None, where the denoiser is.
        bf16: whether the network computes in bfloat16 on a GPU, by autocast; never on a CPU.
        progress: whether to show a progress bar, with the mean loss of the lower, middle and upper
            third of the noise levels.

    Raises:
        PgmdiffError: the loss is not finite; the folder of the run belongs to another run; or the
            denoiser has no parameters.
    """
    run, parameters = Run.of(run), list(denoiser.parameters())
    if not parameters or steps < 1 or batch < 1:
        raise PgmdiffError(
            f"fit: expected a network with parameters, and at least one step of one crop, got "
            f"{len(parameters)} parameters, steps={steps} and batch={batch}."
        )
    warmup = min(200, steps // 10) if warmup is None else warmup
    device = parameters[0].device if device is None else torch.device(device)
    denoiser = copy.deepcopy(denoiser).to(device).train()
    if not any(p.requires_grad for p in parameters):
        denoiser.requires_grad_(True)
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if _distributed() else (0, 1)
    model: nn.Module = denoiser
    if ranks > 1:  # a kind of crops may not use the parameters of another's conditions
        model = DistributedDataParallel(denoiser, find_unused_parameters=True)
    average = AveragedModel(denoiser)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr)

    given = {"sampler": "training", "steps": steps, "batch": batch, "lr": lr, "warmup": warmup}
    given |= {"clip": clip, "ema": ema, "p_mean": p_mean, "p_std": p_std, "ranks": ranks}
    given |= {"per_element": per_element, "network": str(denoiser)}
    earlier = None
    if run is not None:
        earlier, given["data and conditions"] = run.latest(), store.fingerprint(crops)
    begin = 0
    if earlier is None:
        seed = _common(generator)
        scales = [denoiser.sigma_data, denoiser.mean, denoiser.unit]
    else:
        tensors, facts = earlier
        seed, scales, begin = facts["seed"], facts["scales"], facts["step"]
        given |= {} if generator is None else {"seed": seed_of(generator, "fit")}
        check_same(f"fit: {run}", {**facts["run"], "seed": seed}, given, ELSEWHERE)
        _restore(tensors, denoiser, average, optimizer)
    averaged = cast(EDMDenoiser, average.module)
    for each in (denoiser, averaged):
        each.sigma_data, each.mean, each.unit = scales
    given["seed"], noise = seed, Noise((split_seed(seed, ranks)[rank],))
    facts = {"run": given, "seed": seed, "scales": scales}

    middle = math.log(0.6 * denoiser.sigma_data) if p_mean is None else p_mean
    edges = torch.tensor([middle - 0.43 * p_std, middle + 0.43 * p_std], device=device)
    losses, counts = torch.zeros(2, 3, device=device, dtype=torch.float64)
    levels = {"sigma_data": denoiser.sigma_data, "p_mean": middle, "p_std": p_std}
    bar = tqdm(range(begin, steps), initial=begin, total=steps, disable=not progress or rank > 0)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # for dropout
        for step in bar:
            if run is not None and run.due and rank == 0:
                _check_finite(losses, step)
                run.save(step, _tensors(denoiser, average, optimizer), {**facts, "step": step})
            home = torch.cuda if device.type == "cuda" else torch.default_generator
            home.manual_seed(noise.seeds(SECOND + step)[0])
            stream = torch.Generator().manual_seed(noise.seeds(step)[0])
            crop = crops.draw(batch, stream).to(device)
            with torch.autocast("cuda", torch.bfloat16, enabled=bf16 and device.type == "cuda"):
                loss, sigma = denoising_losses(
                    model,
                    crop.clean.to(parameters[0].dtype),
                    crop.condition,
                    per_element=per_element,
                    generator=stream,
                    **levels,
                )
            optimizer.zero_grad()
            loss.mean().backward()
            nn.utils.clip_grad_norm_(denoiser.parameters(), clip)
            for group in optimizer.param_groups:
                fall = 0.5 * (1 + math.cos(math.pi * step / steps))
                group["lr"] = lr * fall * min(1.0, (step + 1) / (warmup + 1))
            optimizer.step()
            average.multi_avg_fn = get_ema_multi_avg_fn(min(ema, (step + 1) / (step + 10)))
            average.update_parameters(denoiser)

            shown = loss.detach().reshape(*sigma.shape, -1).mean(-1).flatten().double()
            band = torch.bucketize(sigma.log().flatten(), edges)
            losses += torch.bincount(band, shown, 3)
            counts += torch.bincount(band, minlength=3)
            if step % EVERY == EVERY - 1 or step == steps - 1:
                _check_finite(losses, step)
                names = zip(("low σ", "middle", "high σ"), (losses / counts).tolist(), strict=True)
                bar.set_postfix({name: f"{value:.3f}" for name, value in names})
                losses, counts = torch.zeros_like(losses), torch.zeros_like(counts)
    if run is not None and rank == 0 and begin < steps:
        run.save(steps, _tensors(denoiser, average, optimizer), {**facts, "step": steps}, last=True)
    return averaged.eval().requires_grad_(False)


def _preconditioned(
    network: nn.Module, crops: Crops, sigma_data: float | None, seed: int
) -> EDMDenoiser:
    """A network as a denoiser of crops, whose mean and standard deviation are measured."""
    if isinstance(network, EDMDenoiser):
        return network
    mean = 0.0
    if sigma_data is None:
        stream = torch.Generator().manual_seed(Noise((seed,)).seeds(START)[0])
        values = torch.cat([crops.draw(64, stream).clean.flatten().double() for _ in range(64)])
        mean, sigma_data = values.mean().item(), values.std().item()
    return EDMDenoiser(network, sigma_data, mean, unit=sigma_data)


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _common(generator: Generator) -> int:
    """The seed that a generator gives, of all ranks that of the first."""
    box = [seed_of(generator, "fit")]
    if _distributed():
        dist.broadcast_object_list(box, 0)
    return box[0]


def _check_finite(losses: Tensor, step: int) -> None:
    if not losses.isfinite().all():
        raise PgmdiffError(
            f"fit: the loss is not finite before step {step}. Lower lr, or look for values of the "
            "data or of the network that overflow."
        )


def _tensors(
    denoiser: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """All that the next step depends on, by name."""
    moments = optimizer.state_dict()["state"].items()
    parts = {
        "denoiser": denoiser.state_dict(),
        "average": average.state_dict(),
        "optimizer": {f"{i} {name}": x for i, state in moments for name, x in state.items()},
    }
    return {f"{part}/{name}": x for part, named in parts.items() for name, x in named.items()}


def _restore(
    tensors: Mapping[str, Tensor],
    denoiser: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Puts back what `_tensors` gave."""
    parts: dict[str, dict[str, Tensor]] = {"denoiser": {}, "average": {}, "optimizer": {}}
    for key, value in tensors.items():
        part, name = key.split("/", 1)
        parts[part][name] = value
    denoiser.load_state_dict(parts["denoiser"])
    average.load_state_dict(parts["average"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in parts["optimizer"].items():
        number, name = key.split(" ", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
