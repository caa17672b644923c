"""Full spheres from a model of views (DiffCollage's Sec. 5.4, Figs. 9 and 14 to 16, in miniature).

One network knows upright views of 90° (24 × 24 pixels), with a segmentation or without. Every graph
is asked for the same spheres: segmentations of panoramas that the network was trained on, of others
that were held out, and two painted by code.

    gate      pieces of every kind against real ones, and whether spheres are copies
    panorama  the four side faces as a cycle of windows, and as a strip whose ends need not meet
    sphere    six faces: alone, averaged, and by three graphs under the marginal rule
    gaussian  the same graphs with exact models of Gaussian spheres, and with separable filters

Steps across edges and corners are over those of the real panoramas there. FD is the Fréchet
distance of `texture_features` of views of 60° in random directions, in the gate also that of a
pretrained network's features; it is no FID. Drawings are kept in `out/experiments/sphere`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from benchmarks.reports import Column, columns, measured, plus_minus, settings, table
from experiments.corpora import OURS
from experiments.infinite import EXTRACTORS, FEATURES
from experiments.sphere_model import (
    CLASSES,
    HEIGHT,
    HELD_OUT,
    MODEL,
    SIDE,
    TRAINED,
    YAWS,
    axis_of_faces,
    centres,
    corners,
    cubes,
    everything,
    labels_of,
    segmentation,
)
from experiments.sphere_page import cross, equirectangular, page
from experiments.strips import MAX_BATCH
from pgmdiff import store
from pgmdiff.composition import Average, Rule, compose
from pgmdiff.composition.fields import field
from pgmdiff.diagnostics import bootstrap, metrics
from pgmdiff.graphs import RegionGraph, cubemap, tiles
from pgmdiff.graphs.cube import FACES, FRAMES, face_directions
from pgmdiff.images import cube_to_equirectangular
from pgmdiff.images.panorama import equirectangular_directions
from pgmdiff.plotting.style import Sheet
from pgmdiff.samplers import sample
from pgmdiff.scores.adapters import from_denoiser
from pgmdiff.text import Table
from pgmdiff.training import WienerFilter

__all__ = ["METHODS", "PARTS", "draw", "run", "spheres", "tables"]

REAL = "real"
FOLDER = Path("out/experiments/sphere")
SEEN, HELD, PAINTED = "seen", "held out", "painted"


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        seeds: how often all spheres are drawn.
        held: yaws of each held-out panorama, per seed; a seen one has one.
        steps: noise levels.
        views: of every sphere.
        pieces: of every kind in the gate.
        strips: of every panorama in the part panorama.
        yaws: of every panorama in sets of real spheres.
        resamples: of the bootstrap.
        seen: the features of the gate's FD; see `infinite`.
    """

    seeds: int = 3
    held: int = 2
    steps: int = 20
    views: int = 24
    pieces: int = 128
    strips: int = 2
    yaws: int = 2 * YAWS
    resamples: int = 40
    seen: str = "pretrained"


SMOKE = Sizes(1, 1, 1, 4, 6, 1, 1, 4, "textures")
FULL = Sizes()


def alone(face_size: int) -> RegionGraph:
    """The six faces, which know nothing of each other."""
    arrays = np.arange(6 * 3 * face_size**2).reshape(6, 3, face_size, face_size)
    shape, regions = arrays.shape, dict(zip(FACES, arrays, strict=True))
    models = dict.fromkeys(FACES, shape[1:])
    return RegionGraph.from_regions(regions, event_shape=shape, models=models)


METHODS: dict[str, tuple[Callable[[int], RegionGraph], Rule | None]] = {
    "faces alone": (alone, None),
    "averaged windows": (lambda n: cubemap(n, channels=3), Average()),
    "half-face windows": (lambda n: cubemap(n, channels=3), None),
    "nested": (lambda n: cubemap(n, n, channels=3), None),
    "eight corners": (corners, None),
}
"""By name a graph and a rule: `Marginal`, the paper's, if None. *Nested* is flattened."""

ONCE = ("eight corners",)
"""Drawn for one seed only: with the bundled network they diverge."""


def painted() -> Tensor:
    """Two segmentations painted by code, `[2, 6, K, n, n]`.

    The first is painted face by face: rows of colour on the side faces, a sun on R, and U and D
    whole. The second is painted on the sphere: hills, and a bright road in the sky.
    """
    dark, far, high, low, bright = _classes()
    faces = torch.full((6, SIDE, SIDE), low)
    half, quarter = SIDE // 2, SIDE // 4
    faces[:4, half:], faces[:4, half + quarter :] = far, dark
    faces[FACES.index("U")], faces[FACES.index("D")] = high, dark
    faces[FACES.index("R"), quarter:half, quarter : 3 * quarter] = bright
    faces[FACES.index("B"), quarter : half + 2, half:] = far
    x, y, z = torch.from_numpy(np.moveaxis(equirectangular_directions(HEIGHT), -1, 0))
    hills = 0.25 * torch.sin(3 * torch.atan2(x, z)) - 0.1
    sphere = torch.full(y.shape, low)
    sphere[-y > 0.65] = high
    sphere[(x.abs() < 0.2) & (y < 0.2)] = bright
    sphere[-y < hills] = far
    sphere[-y < hills - 0.4] = dark
    own = F.one_hot(faces, CLASSES).movedim(-1, 1).float()
    return torch.stack([own, segmentation(sphere)])


def _classes() -> list[int]:
    """Classes by what they are: near and far ground, high and low sky, and the brightest."""
    bright = int(centres()[:, :3].sum(dim=1).argmax())
    near, far, low, high = [k for k in centres()[:, 3].argsort().tolist() if k != bright]
    return [near, far, high, low, bright]


@dataclass(frozen=True, eq=False)
class Asked:
    """What every graph is asked for, one after another, and the panoramas that it is made of.

    Attributes:
        kinds: of each sphere, seen, held out or painted.
        fields: segmentations `[n, 6, K, n, n]`.
        real: cube maps of the panoramas, without the painted ones.
    """

    kinds: list[str]
    fields: Tensor
    real: Tensor

    def of(self, kind: str) -> list[int]:
        return [number for number, own in enumerate(self.kinds) if own == kind]


@cache
def asked(sizes: Sizes, seed: int) -> Asked:
    seen, held = cubes(TRAINED, 1, 100 + seed), cubes(HELD_OUT, sizes.held, 200 + seed)
    fields = torch.cat([seen[1], held[1], painted()])
    kinds = [SEEN] * len(seen[0]) + [HELD] * len(held[0]) + [PAINTED] * 2
    return Asked(kinds, fields, torch.cat([seen[0], held[0]]))


def spheres(method: str, sizes: Sizes, seed: int) -> Tensor:
    """The spheres of a method and a seed, `[n, 6, 3, n, n]`, or those that were drawn before."""
    graph, rule = METHODS[method]
    joint = compose(graph(SIDE), from_denoiser(MODEL.denoiser()), rule=rule, max_batch=MAX_BATCH)
    return _kept(f"{method} {seed}", joint, asked(sizes, seed).fields, sizes, seed)


def _kept(name: str, score: Any, fields: Tensor, sizes: Sizes, seed: int) -> Tensor:
    """Samples for some segmentations, each kept in a file."""
    levels = MODEL.levels(sizes.steps)
    told = store.fingerprint([MODEL.denoiser().state_dict(), levels, repr(OURS), fields])
    file = FOLDER / f"{sha256(f'{told} {name}'.encode()).hexdigest()[:16]}.safetensors"
    if not file.exists():
        shape = (*fields.shape[:-3], 3, *fields.shape[-2:])
        own = partial(score, field=field(fields))
        u = sample(own, levels, shape=shape, generator=seed, solver=OURS)
        store.save(file, {"images": u}, {})
    return store.load(file)[0]["images"]


def steps(x: Tensor) -> dict[str, float]:
    """Mean absolute steps of cube maps: across the 12 edges, at the 8 corners, and within faces."""
    flat, n = x.flatten(1), SIDE
    whole, three = cubemap(n, n, channels=3), corners(n)
    across, around = [], []
    for name in whole.names:
        if len(str(name)) == 3:
            pair = flat[:, whole.elements(name)]
            axis = 3 if "|" in str(name) else 2
            across.append(pair.narrow(axis, n - 1, 2).diff(dim=axis).abs().mean())
    for name in three.names:
        if ", " in str(name):
            faces = flat[:, three.elements(name)]
            third, left, right = faces.unbind(dim=axis_of_faces(faces))
            near, beside = (-1, 0) if str(name)[0] == "U" else (0, -1)
            own = [third[..., near, -1], left[..., beside, -1], right[..., beside, 0]]
            around += [(a - b).abs().mean() for a, b in zip(own, own[1:] + own[:1], strict=True)]
    within = torch.cat([x.diff(dim=axis).abs().flatten() for axis in (-1, -2)]).mean()
    found = {"edges": torch.stack(across).mean(), "corners": torch.stack(around).mean()}
    return {name: value.item() for name, value in (found | {"within": within}).items()}


def views(x: Tensor, n: int, seed: int, *, edges: bool) -> Tensor:
    """Views of 60° of cube maps, `[spheres, n, 3, SIDE, SIDE]`, rolled at random.

    They look at a random point of a random edge, or at the middle of a random face.
    """
    stream = torch.Generator().manual_seed(seed)
    wide = cube_to_equirectangular(x, 4 * SIDE)
    wide = torch.cat([wide[..., -1:], wide, wide[..., :1]], dim=-1)
    local = torch.from_numpy(face_directions(SIDE)[FACES.index("F")]).float()
    local = F.normalize(local * torch.tensor([1, 1, 3**0.5]), dim=-1)
    frames, found = torch.from_numpy(FRAMES.copy()).float(), []
    for image in wide:
        chosen = torch.randint(6, (n,), generator=stream)
        right, down, normal = frames[chosen].unbind(dim=1)
        turns = torch.randint(4, (n,), generator=stream)  # else they see one edge of each face
        sides = torch.stack([right, down, -right, -down])
        right, down = (sides[(turns + k) % 4, torch.arange(n)] for k in (0, 1))
        along = 1.6 * torch.rand(n, 1, generator=stream) - 0.8
        ahead = normal + (right + along * down if edges else 0 * right)
        ahead, angle = F.normalize(ahead, dim=1), 6.2832 * torch.rand(n, 1, generator=stream)
        beside = F.normalize(torch.linalg.cross(down, ahead), dim=1)
        under = torch.linalg.cross(ahead, beside)
        axes = [angle.cos() * beside + angle.sin() * under]
        axes += [angle.cos() * under - angle.sin() * beside, ahead]
        vectors = torch.einsum("ijk,knx->nijx", local, torch.stack(axes))
        lon = torch.atan2(vectors[..., 0], vectors[..., 2]) / torch.pi
        lat = vectors[..., 1].clamp(-1, 1).asin() * 2 / torch.pi
        grid = torch.stack([lon * (1 - 2 / wide.shape[-1]), lat], dim=-1)
        options: dict[str, Any] = {"padding_mode": "border", "align_corners": False}
        found.append(F.grid_sample(image.expand(n, -1, -1, -1), grid, **options))
    return torch.stack(found)


def _fd(a: Tensor, b: Tensor) -> float:
    return metrics.frechet_distance(a, b, relative=True)


def gate(sizes: Sizes) -> dict[str, Any]:
    """Pieces of every kind against real ones; whether faces are copies."""
    graph, denoiser = everything(SIDE), from_denoiser(MODEL.denoiser())
    stream, sets = (
        torch.Generator().manual_seed(1),
        [cubes(TRAINED, sizes.yaws, s) for s in (31, 32)],
    )
    kinds = {"faces": "F", "windows across edges": "F|R", "halves": "F[0:12, 0:24]"}
    kinds |= {"pairs": "F|R whole", "upper corners": "U, F|R", "lower corners": "D, F|R"}
    rows = []
    for kind, like in tqdm(kinds.items(), desc="gate"):
        alike = graph.elements(like).shape
        names = [str(name) for name in graph.names if graph.elements(name).shape == alike]
        if kind in ("faces", "windows across edges"):
            names = [name for name in names if (len(name) == 1) == (kind == "faces")]
        two, chosen = [], torch.randint(len(names), (sizes.pieces,), generator=stream).tolist()
        index = torch.stack([graph.elements(names[k]) for k in chosen])
        for states, _ in sets:
            some = torch.randint(len(states), (len(index),), generator=stream)
            two.append((some, states.flatten(1)[some[:, None], index.flatten(1)].view(index.shape)))
        (_, real), (_, other) = two
        places = index // SIDE**2 // 3 * SIDE**2 + index % SIDE**2  # in a map of one channel
        maps = sets[0][1].movedim(2, 0).flatten(2)  # [K, states, 6 n n]
        own = (
            maps[:, two[0][0].view(-1, *[1] * (index.ndim - 1)), places].select(2, 0).movedim(0, 1)
        )
        told = {"field": own}
        if "corners" in kind:
            told["label"] = torch.full((sizes.pieces,), int(kind[0] == "l"))
        drawn = sample(
            partial(denoiser, **told), MODEL.levels(sizes.steps), shape=real.shape, generator=5,
            solver=OURS,
        )  # fmt: skip
        row: dict[str, Any] = {"kind": kind, "shape": "×".join(map(str, alike)), "n": len(drawn)}
        flat = [
            x.movedim(axis_of_faces(x), 1).flatten(0, 1) if x.ndim == 5 else x
            for x in (drawn, real, other)
        ]
        for key, name in {"": "textures", "seen_": sizes.seen}.items():
            a, b, c = map(EXTRACTORS[name], flat)
            fd, floor = _fd(a, b), _fd(c, b)
            row |= {f"{key}fd": fd, f"{key}floor": floor, f"{key}ratio": fd / floor}
        row["contrast"] = (drawn.std() / real.std()).item()
        jumps = [x.diff(dim=-1).abs().mean() for x in (drawn, real)]
        row |= {"step": (jumps[0] / jumps[1]).item(), "passed": row["seen_ratio"] <= 3}
        rows.append(row)
    return {"rows": rows, "copies": copies(sizes)}


def copies(sizes: Sizes) -> list[dict[str, Any]]:
    """Distances of faces from the nearest face of the training set."""
    trained = cubes(TRAINED, sizes.yaws, 0)[0].flatten(0, 1).flatten(1)
    given, drawn = asked(sizes, 0), spheres("half-face windows", sizes, 0)
    sets = {f"half-face windows, {kind}": drawn[given.of(kind)] for kind in (SEEN, HELD, PAINTED)}
    sets |= {"real, seen panoramas at new yaws": given.real[given.of(SEEN)]}
    sets |= {"real, held-out panoramas": given.real[given.of(HELD)]}
    rows, entries = [], trained.shape[1]
    for name, x in sets.items():
        apart = torch.cdist(x.reshape(-1, entries), trained).amin(dim=1) / entries**0.5
        rows.append({"faces": name, "n": len(apart), "smallest": apart.min().item(),
                     "median": apart.median().item()})  # fmt: skip
    return rows


def panorama(sizes: Sizes) -> dict[str, Any]:
    """Four side faces in a row, whose ends meet on a cycle of windows and need not on a strip."""
    order = [FACES.index(face) for face in "LFRB"]
    given = cubes(TRAINED, sizes.strips, 41)
    real, fields = (x[:, order].movedim(1, -2).flatten(-2) for x in given)
    rows, score = [], from_denoiser(MODEL.denoiser())
    shape, window = (3, SIDE, 4 * SIDE), (3, SIDE, SIDE)
    for name, closed in {"strip, ends apart": False, "cycle": True}.items():
        graph = tiles(shape, window, (0, 0, SIDE // 2), (False, False, closed))
        joint = compose(graph, score, max_batch=MAX_BATCH)
        x = _kept(name, joint, fields, sizes, 0)
        rows.append({"panorama": name, "n": len(x), **_ends(x, real)})
    rows.append({"panorama": REAL, "n": len(real), **_ends(real, real)})
    return {"rows": rows}


def _ends(x: Tensor, real: Tensor) -> dict[str, float]:
    """Steps where the ends meet, at other edges of faces, and elsewhere, over real ones."""
    found = []
    for each in (x, real):
        across = (each - each.roll(1, dims=-1)).abs().mean(dim=(0, 1, 2)).view(4, SIDE)
        found.append((across[0, 0], across[1:, 0].mean(), across[:, 1:].mean()))
    names = ("ends", "edges", "within")
    return {key: (a / b).item() for key, a, b in zip(names, *found, strict=True)}


def sphere(sizes: Sizes) -> dict[str, Any]:
    """Every graph's spheres against real ones, kind by kind."""
    given = [asked(sizes, seed) for seed in range(sizes.seeds)]
    drawn = {
        name: [spheres(name, sizes, seed) for seed in range(1 if name in ONCE else sizes.seeds)]
        for name in tqdm(METHODS, desc="spheres")
    }
    rows = []
    more = {SEEN: cubes(TRAINED, sizes.seeds, 51)[0], HELD: cubes(HELD_OUT, 4 * sizes.held, 52)[0]}
    for kind in (SEEN, HELD, PAINTED):
        own, truth = given[0].of(kind), SEEN if kind == PAINTED else kind
        real = [each.real[each.of(truth)] for each in given]
        base = steps(torch.cat(real))
        wanted = [each.fields[each.of(kind)] for each in given]
        sets = {name: [x[own] for x in found] for name, found in drawn.items()}
        sets |= {} if kind == PAINTED else {REAL: real}
        like = {
            edges: FEATURES(views(more[truth], sizes.views, 61, edges=edges).flatten(0, 1))
            for edges in (True, False)
        }
        for name, found in sets.items():
            row: dict[str, Any] = {"asked": kind, "method": name, "n": sum(map(len, found))}
            for key in ("edges", "corners", "within"):
                row[key] = metrics.mean_and_error([steps(x)[key] / base[key] for x in found])
            row["agreement"] = metrics.mean_and_error(
                [_agreement(x, f) for x, f in zip(found, wanted, strict=False)]
            )
            for edges, key in ((True, "fd_edges"), (False, "fd_faces")):
                seen = views(torch.cat(found), sizes.views, 62, edges=edges)
                own_features = FEATURES(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
                row[key] = _interval(own_features, like[edges], sizes)
            rows.append(row)
    return {"rows": rows, "costs": [_cost(name, sizes) for name in METHODS]}


def _interval(features: Tensor, like: Tensor, sizes: Sizes) -> list[float]:
    """FD with its 90 % interval over spheres: the low end, the value, the high end."""
    if len(features) < 4:
        return 3 * [_fd(features.flatten(0, 1), like)]
    options: dict[str, Any] = {"resamples": sizes.resamples, "generator": 6}
    value, low, high = bootstrap(lambda x: _fd(x.flatten(0, 1), like), features, **options)
    return [low, value, high]


def _agreement(x: Tensor, fields: Tensor) -> float:
    """The share of the pixels of cube maps whose class is the one that was asked for."""
    found = segmentation(labels_of(cube_to_equirectangular(x, HEIGHT)))
    return (found * fields).sum(dim=-3).mean().item()


def _cost(method: str, sizes: Sizes) -> dict[str, Any]:
    """Evaluations of regions for a sphere, and pixels that they see, in faces, per noise level."""
    make, rule = METHODS[method]
    graph, regions, faces = make(SIDE), 0, 0.0
    for group in graph.groups:
        used = int(group.outer.sum() if rule else (group.counts != 0).sum())
        laid_out = 4 if len(group.shape) == 4 else np.prod(group.shape) / 3 / SIDE**2
        regions, faces = regions + used, faces + used * float(laid_out)
    return {"method": method, "regions": regions, "evaluations": regions * sizes.steps,
            "faces": faces}  # fmt: skip


def gaussian(sizes: Sizes) -> dict[str, Any]:
    """Spheres of 4 × 4 pixels a face as Gaussians: what is lost by each graph, and by filters.

    *Least* is the smallest eigenvalue of σ² times the composed precision, from 0 to 1 if all is
    well; below 0 noise grows. Filters are separable, one a shape, as a network begins.
    """
    n, x = 4, cubes(TRAINED, sizes.yaws, 0)[0]
    faces = F.interpolate(x.flatten(0, 1), size=(n, n), mode="area").double().reshape(len(x), -1)
    eye = torch.eye(faces.shape[1], dtype=torch.float64)
    covariance, rows = torch.cov(faces.T) + 1e-4 * eye, []
    for name, (make, rule) in METHODS.items():
        for sigma in (0.5, 2.0, 10.0) if rule is None else ():
            noisy = covariance + sigma**2 * eye
            exact, filtered = torch.zeros_like(noisy), torch.zeros_like(noisy)
            for group in make(n).groups:
                alike = group.indices(0, len(group))
                own = WienerFilter.of(torch.cat([faces[:, index] for index in alike]))
                unit = torch.eye(alike[0].numel(), dtype=torch.float64)
                kept = own(unit.view(-1, *group.shape), own.gain(torch.tensor(sigma).double()))
                taken = (unit - kept.flatten(1)) / sigma**2
                for index, count in zip(alike.flatten(1), group.counts.tolist(), strict=True):
                    at = index[:, None], index
                    exact[at] += count * torch.linalg.inv(noisy[at])
                    filtered[at] += count * taken
            right = torch.linalg.inv(noisy)
            lost = exact - right
            error = ((lost @ noisy @ lost).trace() / right.trace()).sqrt().item()
            row: dict[str, Any] = {"method": name, "noise": sigma, "error": error}
            for key, matrix in {"least": exact, "least_filters": filtered}.items():
                row[key] = sigma**2 * torch.linalg.eigvalsh(matrix)[0].item()
            rows.append(row)
    return {"rows": rows}


PARTS: dict[str, Callable[[Sizes], dict[str, Any]]] = {
    "gate": gate, "panorama": panorama, "sphere": sphere, "gaussian": gaussian,
}  # fmt: skip
"""The parts of the experiment, by name."""


def run(
    *, smoke: bool = False, device: str = "cpu", parts: Sequence[str] = tuple(PARTS)
) -> dict[str, Any]:
    """Measures the parts, or with `smoke` a little of each; always on the CPU."""
    sizes = SMOKE if smoke else FULL
    about = settings(
        threads=torch.get_num_threads(), seeds=sizes.seeds, levels=sizes.steps,
        samples=len(asked(sizes, 0).kinds),
    )  # fmt: skip
    found = measured(parts, lambda name: PARTS[name](sizes), 4)
    return {"settings": about, "sizes": asdict(sizes), **found}


def _estimate(key: str, row: Mapping[str, Any]) -> str:
    return plus_minus(row[key], ".2f")


def _interval_text(key: str) -> str:
    return f"{{{key}[1]:.2f}} ({{{key}[0]:.2f}} to {{{key}[2]:.2f}})"


COLUMNS: dict[tuple[str, str], dict[str, Column]] = {
    ("gate", "rows"): columns(
        "kind shape n seen_fd:.2f seen_floor:.2f seen_ratio:.2f passed ratio:.2f contrast:.3f "
        "step:.3f"
    ),
    ("gate", "copies"): columns("faces n smallest:.3f median:.3f"),
    ("panorama", "rows"): columns("panorama n ends:.2f edges:.2f within:.2f"),
    ("sphere", "rows"): {
        **columns("asked method n"),
        **{key: partial(_estimate, key) for key in ("edges", "corners", "within", "agreement")},
        "FD across edges": _interval_text("fd_edges"),
        "FD within faces": _interval_text("fd_faces"),
    },
    ("gaussian", "rows"): columns("method noise:g error:.3f least:.3f least_filters:.3f"),
    ("sphere", "costs"): columns("method regions evaluations faces:.0f"),
}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The tables of all parts that were run."""
    return [
        table(f"{part}: {rows}", result[part][rows], own)
        for (part, rows), own in COLUMNS.items()
        if part in result
    ]


def shown(sizes: Sizes) -> dict[str, dict[str, Tensor]]:
    """Spheres of the first seed by what was asked for, and the segmentations in colours."""
    given = asked(sizes, 0)
    drawn = {name: spheres(name, sizes, 0) for name in METHODS}
    some = {
        "A panorama never seen (venice)": given.of(HELD)[-1],
        "A panorama of the training set (park)": TRAINED.index("park"),
        "Painted face by face": given.of(PAINTED)[0],
        "Painted on the sphere": given.of(PAINTED)[1],
    }
    found: dict[str, dict[str, Tensor]] = {}
    for title, number in some.items():
        own = {
            "what was asked for": (given.fields[number].movedim(1, -1) @ centres()[:, :3]).movedim(
                -1, 1
            )
        }
        own |= {"the real panorama": given.real[number]} if number < len(given.real) else {}
        found[title] = own | {name: x[number] for name, x in drawn.items()}
    return found


def draw(result: Mapping[str, Any], folder: Path) -> None:
    """Draws into a folder: crosses and equirectangular pictures, and the page that turns.

    The spheres are of the first seed, as they were measured.
    """
    if "sphere" not in result:
        return
    folder.mkdir(parents=True, exist_ok=True)
    found = shown(Sizes(**result["sizes"]))
    for kind, show in (("crosses", cross), ("panoramas", equirectangular)):
        names = ["what was asked for", "the real panorama", *METHODS]
        figure = Sheet(figsize=(2 * len(found) * 1.6, len(names) * 1.55), layout="constrained")
        axes = figure.subplots(len(names), len(found), squeeze=False)
        for column, (title, own) in enumerate(found.items()):
            for row, name in enumerate(names):
                ax = axes[row, column]
                ax.set_axis_off()
                if name in own:
                    image = show(own[name]).movedim(0, -1).clamp(-1, 1).numpy() / 2 + 0.5
                    ax.imshow(image, interpolation="nearest")
                if column == 0 or name not in own:
                    ax.set_title(name if name in own else "", fontsize=9, loc="left", pad=2)
                if row == 0:
                    ax.set_title(f"{title}\n{name}", fontsize=9, loc="left", pad=2)
        figure.savefig(folder / f"experiment_sphere_{kind}.png", dpi=75)
    page(
        found,
        folder / "experiment_sphere.html",
        "Spheres made from views",
        "Every sphere was made by one small network that knows pieces of 24 pixels only, from a "
        "map of five classes of colour and height. The methods differ in how pieces are joined: "
        "<i>faces alone</i> do not know their neighbours, <i>half-face windows</i> do.",
        "half-face windows",
    )
