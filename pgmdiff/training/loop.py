"""The training loop: denoising of crops, for one network or one per model of a graph.

`fit` cuts crops, preconditions networks and trains each with `train`, a plain loop that can be read
and replaced: its parts are `crops`, `EDMDenoiser` and `denoising_loss`.
"""

import copy
import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from pgmdiff import store
from pgmdiff.composition.plan import map_tensors
from pgmdiff.errors import PgmdiffError, warn
from pgmdiff.graphs.names import check_known
from pgmdiff.linalg import sent
from pgmdiff.noise import SECOND, START, Generator, Noise, seed_of, split_seed
from pgmdiff.samplers.store import ELSEWHERE, Run, check_same
from pgmdiff.training.data import Crops, Where, crops, warn_of_null
from pgmdiff.training.preconditioning import EDMDenoiser, WienerFilter, denoising_loss

__all__ = ["fit", "train"]

APART, MOST_CHANNELS = 10.0, 16
"""Ratio of deviations above which channels count as of other units, and most entries of an axis of
channels."""
EVERY = 50
"""Steps after which the progress bar shows new losses."""


def fit(
    where: Where,
    network: nn.Module | Mapping[Any, nn.Module],
    data: Any,
    *,
    steps: int,
    sigma_data: float | None = None,
    wiener: bool = False,
    processes: int = 1,
    run: Run | str | Path | None = None,
    generator: Generator = None,
    **options: Any,
) -> Any:
    """Trains the models of a graph's nodes as denoisers of crops of data.

    A network is called as `network(x, noise, **condition)`, x `[batch, *shape]` of about unit
    variance, noise `[batch]`, and preconditioned by `EDMDenoiser`. An `EDMDenoiser` is trained
    further, with its own σ_d. What is given is not changed.

    Args:
        where, data: what is cut from what; see `crops`.
        network: one network for all nodes, or a mapping from model id (of crops: from shape) to
            network. Each is trained alone, on its own nodes.
        steps: number of steps of every network.
        sigma_data: standard deviation of the data, in their units, whose mean is then taken to be
            0; if None, both are those of 4,096 crops. It is one number for all channels, which
            should be standardised if they have different units.
        wiener: whether the denoiser begins as a Wiener filter, measured on 4,096 crops of every
            shape, in place of EDM's c_skip: see `EDMDenoiser`. It learns correlated data sooner.
        processes: how many networks are trained at once, each in a new process with its share of
            the threads; networks and data must be picklable, and a script needs the usual
            `if __name__ == "__main__":`. The result is the same.
        run: a `Run`, or its folder, for checkpoints: the same call, made again after the process
            was killed, gives the same result bit for bit. Several networks have a folder each.
        generator: the source of all random choices, one stream for all.
        options: `half`, `conditions`, `labels`, `position`, `null_condition`, `null_probability` of
            `crops`; and `batch`, `lr`, `progress`, `device` and others of `train`.

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
    networks = dict(network) if isinstance(network, Mapping) else {None: network}
    shared, accepted = not isinstance(network, Mapping), _keywords(fit, crops, train)
    del accepted["networks"]  # which are the network here
    remedy = f"fit accepts {', '.join(accepted)}."
    check_known("fit: got the option", options, accepted, "option of crops or train", remedy)
    cut = {name: options.pop(name) for name in options.keys() & _keywords(crops)}
    found = crops(where, data, networks=None if shared else networks, **cut)
    found = {None: found} if shared else found
    run, seeds = Run.of(run), list[int | None]([None] * len(found))
    if generator is not None:
        seed = seed_of(generator, "fit")
        seeds = [*Noise.of(seed, len(found)).seeds(0)] if len(found) > 1 else [seed]
    jobs: dict[int, Callable[[], EDMDenoiser]] = {}
    for place, (name, own) in enumerate(found.items()):
        each = networks[name]
        if id(each) in jobs:
            continue
        own, folder = _warning(own, each), run
        if run is not None and len(found) > 1:
            folder = Run(Path(run.folder) / f"{place:04d}", run.every)
        if not isinstance(each, EDMDenoiser):
            mean, scale, filters = 0.0, sigma_data, list[WienerFilter]()
            stream = torch.Generator().manual_seed(Noise((_common(seeds[place]),)).seeds(START)[0])
            if scale is None:
                some = [own.draw(64, stream).clean.double() for _ in range(64)]
                if not getattr(each, "whitened", False):
                    _warn_of_units(some)
                every = torch.cat([x.flatten() for x in some])
                mean, scale = every.mean().item(), every.std().item()
            if wiener:
                for clean in own.of_each_shape(4096, stream):
                    same = filters and getattr(each, "whitened", False) and clean.ndim > 2
                    filters.append(WienerFilter.of(clean, filters[0] if same else None))
            each = EDMDenoiser(each, scale, mean, unit=scale, filters=filters)
        jobs[id(networks[name])] = partial(
            train, each, own, steps=steps, run=folder, generator=seeds[place], **options
        )
    trained = dict(zip(jobs, _together([*jobs.values()], processes), strict=True))
    result = {name: trained[id(networks[name])] for name in found}
    return result[None] if shared else result


def _warn_of_units(crops: Sequence[Tensor]) -> None:
    """Warns of channels, the first axis of crops, whose deviations differ by more than `APART`.

    The few elements of crops of one axis are channels, too, such as parameters.
    """
    wide = [x for x in crops if x.ndim > 1 and x.shape[1] <= MOST_CHANNELS]
    if not wide:
        return
    first = wide[0]
    like = [x for x in wide if (x.ndim, x.shape[1]) == (first.ndim, first.shape[1])]
    deviations = torch.cat([x.movedim(1, 0).flatten(1) for x in like], dim=1).std(dim=1)
    vary = deviations[deviations > 0]
    if len(vary) and vary.max() > APART * vary.min():
        what, others = "elements", ""
        if first.ndim > 2:
            what = "channels"
            others = (
                "; or use UNet(..., whitened=True) with wiener=True, and sample around the mean of "
                "each (mean=), with levels that end far below the smallest deviation"
            )
        warn(
            f"fit: the {what} have standard deviations from {vary.min():.3g} to "
            f"{vary.max():.3g}, but networks are given one unit for all. Standardise each of them "
            f"in the data, and in observations and their noise{others}."
        )


def _keywords(*functions: Callable[..., Any]) -> dict[str, None]:
    """The names of arguments that are given by keyword only, in order and once."""
    each = (x for f in functions for x in inspect.signature(f).parameters.values())
    return dict.fromkeys(x.name for x in each if x.kind is x.KEYWORD_ONLY)


def _null_of(network: nn.Module) -> Mapping[str, Any]:
    """The null class of each keyword of a network that has classes, or of that in a denoiser."""
    inner = network.network if isinstance(network, EDMDenoiser) else network
    null = getattr(inner, "null_condition", None)
    return null if isinstance(null, Mapping) else {}


def _warning(crops: Crops, network: nn.Module) -> Crops:
    """Crops that warn of labels that are the network's null class: now, or of pairs when drawn."""
    known = {**crops.null_condition, **crops._null_of_network}  # of these they warn already
    new = {w: value for w, value in _null_of(network).items() if w not in known}
    warn_of_null("fit", crops.states.labels, new)
    return replace(crops, _null_of_network={**crops._null_of_network, **new})


def _warn_of_classes(network: nn.Module, words: Collection[str]) -> None:
    """Warns of a network with classes that is trained without labels."""
    for word in _null_of(network):
        if word not in words:
            warn(
                f"fit: the network has classes, but crops come without a {word}: their embeddings "
                f"stay as they are. Give labels={{{word!r}: ...}}, or make it without classes."
            )


def _together(jobs: Sequence[Callable[[], EDMDenoiser]], processes: int) -> list[EDMDenoiser]:
    """The results of jobs, of which some are done at once in processes of their own."""
    processes = min(processes, len(jobs))
    if processes < 2:
        return [job() for job in jobs]
    threads = max(1, torch.get_num_threads() // processes)
    with ProcessPoolExecutor(
        processes, get_context("spawn"), torch.set_num_threads, (threads,)
    ) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]


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
    bf16: bool | None = None,
    progress: bool = False,
) -> EDMDenoiser:
    """Trains one denoiser on crops with Adam, and returns its exponential moving average.

    Step k is a function of the seed, k and the state before it alone. Under an initialised process
    group every rank draws its own crops, `batch` each, and gradients are averaged; rank 0 saves.

    Args:
        denoiser: the denoiser, which is copied.
        crops: what it is trained on; a `DataLoader` is read from its beginning.
        steps, batch: number of steps, and of crops in each.
        lr, warmup: learning rate, which rises linearly over the first steps (if None, a tenth of
            all and at most 200), and falls to 0 at the last as half a cosine.
        clip: largest norm of the gradient.
        ema: decay of the average per step; it is at most (k + 1) / (k + 10) in step k.
        p_mean, p_std, per_element: the noise levels; see `denoising_loss`.
        run, generator: see `fit`. Crops of a `DataLoader` are in its own order, so that a resumed
            run differs from an uninterrupted one.
        device: where to train; if None, where the denoiser is.
        bf16: whether the network computes in bfloat16, by autocast; if None, on a GPU. On CPUs that
            multiply in bfloat16 it takes 0.6 to 0.8 of the time.
        progress: whether to show a progress bar, with the mean loss of the lower, middle and upper
            third of the noise levels.

    Raises:
        PgmdiffError: the loss is not finite; the folder of the run belongs to another run; or the
            denoiser has no parameters.
    """
    run, parameters = Run.of(run), list(denoiser.parameters())
    warmup = min(200, steps // 10) if warmup is None else warmup
    whole = all(isinstance(n, int | np.integer) for n in (steps, batch, warmup))
    if not parameters or not whole or min(steps, batch) < 1 or warmup < 0:
        raise PgmdiffError(
            f"fit: expected a network with parameters, and at least one step of one crop, all of "
            f"them and the warmup in whole numbers, got {len(parameters)} parameters, "
            f"steps={steps}, batch={batch} and warmup={warmup}."
        )
    crops = replace(_warning(crops, denoiser), states=copy.copy(crops.states))
    place = parameters[0].device if device is None else torch.device(device)
    dtype, on_gpu = parameters[0].dtype, place.type == "cuda"
    rounded = on_gpu if bf16 is None else bf16
    denoiser = copy.deepcopy(denoiser).to(place).train()
    denoiser.always = frozenset()
    if not any(p.requires_grad for p in parameters):
        denoiser.requires_grad_(True)
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if _grouped() else (0, 1)
    model: nn.Module = denoiser
    if ranks > 1:  # a kind of crops may not use the parameters of another's conditions
        model = DistributedDataParallel(denoiser, find_unused_parameters=True)
    average = AveragedModel(denoiser)
    averaged = cast(EDMDenoiser, average.module)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr)

    given = {"sampler": "training", "steps": steps, "batch": batch, "lr": lr, "warmup": warmup}
    given |= {"clip": clip, "ema": ema, "p_mean": p_mean, "p_std": p_std, "ranks": ranks}
    given |= {"per_element": per_element, "bf16": rounded, "network": str(denoiser.network)}
    begin, seed, earlier = 0, _common(generator), None
    if run is not None:
        earlier, given["data and conditions"] = run.latest(), store.fingerprint(crops)
    if earlier is not None:
        tensors, facts = earlier
        begin, seed = facts["step"], facts["run"]["seed"] if generator is None else seed
        check_same(f"fit: {run}", facts["run"], {**given, "seed": seed}, ELSEWHERE)
        _restore(tensors, denoiser, average, optimizer)
    noise = Noise((split_seed(seed, ranks)[rank],))

    p_mean = math.log(0.6 * denoiser.sigma_data) if p_mean is None else p_mean
    edges = torch.tensor([p_mean - 0.43 * p_std, p_mean + 0.43 * p_std], device=place)
    bands = torch.zeros(2, 3, device=place, dtype=torch.float64)  # of losses: sums and counts

    def record(losses: Tensor, sigma: Tensor) -> None:
        band = torch.bucketize(sigma.log().flatten(), edges)
        values = losses.reshape(*sigma.shape, -1).mean(-1).flatten().double()
        own = band[:, None] == torch.arange(3, device=place)  # a count would wait for the device
        bands[0] += (values[:, None] * own).sum(dim=0)
        bands[1] += own.sum(dim=0)

    def save(step: int, last: bool = False) -> None:
        if run is not None and rank == 0 and (run.due or last):
            _check_finite(bands, step)
            tensors = _tensors(denoiser, average, optimizer)
            run.save(step, tensors, {"run": {**given, "seed": seed}, "step": step}, last=last)

    bar = tqdm(range(begin, steps), initial=begin, total=steps, disable=not progress or rank > 0)
    with torch.random.fork_rng([place] if on_gpu else []):  # for dropout
        for step in bar:
            save(step)
            stream = torch.Generator().manual_seed(noise.seeds(step)[0])
            home = torch.cuda if on_gpu else torch.default_generator
            home.manual_seed(noise.seeds(SECOND + step)[0])
            crop = crops.draw(batch, stream)
            if step == begin:
                _warn_of_classes(denoiser, {*crops.words, *crop.condition})
            before = (
                averaged.always if step else crop.condition.keys() - crops.null_condition.keys()
            )
            averaged.always = frozenset(before & crop.condition.keys())
            with torch.autocast(place.type, torch.bfloat16, enabled=rounded):
                loss = denoising_loss(
                    model,
                    sent(crop.clean.to(dtype), place),
                    sigma_data=denoiser.sigma_data,
                    p_mean=p_mean,
                    p_std=p_std,
                    per_element=per_element,
                    generator=stream,
                    record=record,
                    linear_error=denoiser.linear_error,
                    **map_tensors(lambda t: sent(t, place), crop.condition),
                )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(denoiser.parameters(), clip)
            fall = 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.param_groups[0]["lr"] = lr * fall * min(1.0, (step + 1) / (warmup + 1))
            optimizer.step()
            average.multi_avg_fn = get_ema_multi_avg_fn(min(ema, (step + 1) / (step + 10)))
            average.update_parameters(denoiser)
            if step % EVERY == EVERY - 1 or step == steps - 1:
                _check_finite(bands, step)
                means = zip(("low σ", "middle", "high σ"), bands[0] / bands[1], strict=True)
                bar.set_postfix({name: f"{mean.item():.3f}" for name, mean in means})
                bands.zero_()
    if begin < steps:
        save(steps, last=True)
    return averaged.eval().requires_grad_(False)


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()


def _common(generator: Generator) -> int:
    """The seed that a generator gives, of all ranks that of the first."""
    box = [seed_of(generator, "fit")]
    if _grouped():
        dist.broadcast_object_list(box, 0)
    return box[0]


def _check_finite(losses: Tensor, step: int) -> None:
    if not losses.isfinite().all():
        raise PgmdiffError(
            f"fit: the loss is not finite before step {step}. Lower lr, or look for values of the "
            "data or of the network that overflow."
        )


def _tensors(*parts: Any) -> dict[str, Tensor]:
    """All that the next step depends on, by name: of the denoiser, its average, the optimizer."""
    denoiser, average, optimizer = (part.state_dict() for part in parts)
    moments = {f"{n} {name}": x for n, x_n in optimizer["state"].items() for name, x in x_n.items()}
    named = {"denoiser": denoiser, "average": average, "optimizer": moments}
    return {f"{part}/{name}": x for part, own in named.items() for name, x in own.items()}


def _restore(tensors: Mapping[str, Tensor], denoiser: Any, average: Any, optimizer: Any) -> None:
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
