"""Draws the pictures of docs/images that belong neither to concept pages nor to benchmarks.

    python -m scripts.draw_docs [NAME ...]

A NAME is that of a file without its ending. Without names all are drawn, in about ten seconds.
"""

import json
from base64 import b64decode
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from PIL import Image
from scipy.ndimage import map_coordinates
from torch import Tensor

from pgmdiff import Joint, compose, from_denoiser
from pgmdiff.diagnostics.influences import influence_over_steps
from pgmdiff.gaussian import Gaussian, ar1, node_scores
from pgmdiff.graphs import (
    FactorGraph,
    RegionGraph,
    chain,
    cluster_variation,
    cycle,
    grid,
    nested_cubemap,
    tiles,
    tree,
)
from pgmdiff.models.gravel import gravel_denoiser, gravel_image
from pgmdiff.plotting import Panel, animate, flow, panels, plot, ring_image
from pgmdiff.plotting.style import GREY, INK, Sheet, colour_of
from pgmdiff.samplers import Step, karras, sample
from scripts.pictures import IMAGES, rules_of, run


def nested() -> None:
    _save(plot(nested_cubemap(8)), "nested_cubemap", dpi=80)


def cylinder() -> None:
    u = np.arange(6 * 12).reshape(6, 12)
    pieces = {f"panel {p}": u[:, np.arange(3 * p, 3 * p + 4) % 12] for p in range(4)}
    graph = cluster_variation({**pieces, "cap": u[:2]}, event_shape=u.shape)
    _save(plot(graph, layout="tiles"), "cylinder", dpi=80)


def gallery() -> None:
    """Six families, each small enough to be seen whole."""
    triples = [tuple("abc"), tuple("bcd"), tuple("cde"), tuple("ade")]
    families: dict[str, FactorGraph | RegionGraph] = {
        "chain(3)": chain(3),
        "cycle(6)": cycle(6),
        "tree(2, 2)": tree(2, 2),
        "grid(3, 3)": grid(3, 3),
        "tiles((28, 40), window=16, overlap=4)": tiles((28, 40), window=16, overlap=4),
        "cluster_variation of four triples": cluster_variation(triples),
    }
    figure = Sheet(figsize=(11, 8))
    for axes, (name, graph) in zip(figure.subplots(2, 3).flat, families.items(), strict=True):
        plot(graph, ax=axes, title=name)
    figure.subplots_adjust(0.02, 0.13, 0.98, 0.95, wspace=0.08, hspace=0.35)
    _save(figure, "graph_gallery", dpi=110)


def counts_over_image() -> None:
    """Counts of windows and overlaps, over the photograph that the gravel model was trained on."""
    windows = tiles((1, 40, 64), window=(1, 16, 16), overlap=(0, 4, 4))
    image = gravel_image()[:, :40, :64]
    _save(plot(windows, layout="counts", image=image), "counts_over_image", dpi=100)


def information_flow() -> None:
    """Influences of the start on the middle of a chain, for each rule: exact, by autograd."""
    data, sigmas = ar1(41, 0.95), karras(12, 0.05, 20.0)
    graphs: dict[str, FactorGraph | RegionGraph] = {
        "pairs": chain(41),
        "windows of 9, overlap 1": tiles((41,), window=9, overlap=1),
    }
    found = {
        f"{rule}, {what}": influence_over_steps(
            compose(graph, node_scores(graph, data), rule=rules_of(graph, data)[rule]),
            sigmas,
            data.mean[None],
            element=20,
        )
        for what, graph in graphs.items()
        for rule in ("average", "marginal", "posterior")
    }
    title = (
        "On which elements of the start element 20 depends, step by step (Euler, AR(1), ρ = 0.95)"
    )
    _save(flow(found, sigmas=sigmas, columns=3, title=title), "flow", dpi=110)


def error_against_sigma() -> None:
    """The relative error of each rule's score, in root mean square over noised data: exact."""
    sigmas = np.geomspace(0.01, 30, 25).tolist()
    cases: dict[str, tuple[FactorGraph | RegionGraph, float]] = {
        f"pairs, ρ = {rho:g}": (chain(48), rho) for rho in (0.5, 0.9, 0.99)
    }
    for overlap in (1, 4, 6):  # of windows of 8: the size that fits next
        n = 8 + (8 - overlap) * (40 // (8 - overlap))
        name = f"windows of 8, overlap {overlap}, ρ = 0.9"
        cases[name] = tiles((n,), window=8, overlap=overlap), 0.9
    drawn, exact = [], []
    for name, (graph, rho) in cases.items():
        data = ar1(graph.regions.n_elements, rho)
        joints = {
            rule: compose(graph, node_scores(graph, data), rule=how)
            for rule, how in rules_of(graph, data).items()
        }
        errors = {
            rule: [_relative_error(joint, data, sigma) for sigma in sigmas]
            for rule, joint in joints.items()
        }
        exact.append(max(errors.pop("posterior")))
        curves = {rule: (sigmas, values) for rule, values in errors.items()}
        drawn.append(Panel(curves, "σ", "relative error of the score", name))
    figure = panels(drawn, "Composed scores of AR(1) chains against the exact ones", columns=3)
    for axes, largest in zip(figure.axes, exact, strict=True):
        axes.set_ylim(1e-5, 2)
        text = f"posterior: at most\n{largest:.0e}, rounding"
        axes.text(0.97, 0.03, text, transform=axes.transAxes, ha="right", fontsize=9)
    _save(figure, "error_against_sigma", dpi=110)


def plans() -> None:
    """Paths that the lines of the page on plans make, without and with its obstacle."""
    made: dict[str, Any] = {}
    exec((IMAGES.parent / "plans.md").read_text("utf-8").split("```")[1].partition("\n")[2], made)
    figure = Figure(figsize=(8.2, 3.9), layout="constrained")
    titles = {"direct": "start and goal observed", "around": "and the disc observed to be empty"}
    for axes, (name, title) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        shape, sigmas = (20, *made["windows"].event_shape), karras(20, 0.01, 20.0)
        for path in sample(made[name], sigmas, shape=shape, generator=0):
            axes.plot(*path, color=colour_of(1), linewidth=1, alpha=0.6)
        axes.add_patch(Circle((0, 0), 0.8, color=GREY))
        for place, text, side in ((-1.5, "start ", "right"), (1.5, " goal", "left")):
            axes.plot(place, place, "o", color=INK)
            axes.text(place, place, text, ha=side, va="center", fontsize=10)
        axes.set(title=title, aspect="equal", xlim=(-3, 3), ylim=(-2.6, 2.6))
    _save(figure, "plans", dpi=110)


def ring() -> None:
    """A ring of gravel in 24 steps: noisy on the left, denoised on the right."""
    graph = tiles(
        (1, 32, 256), window=(1, 16, 16), overlap=(0, 8, 8), periodic=(False, False, True)
    )
    joint = compose(graph, from_denoiser(gravel_denoiser()), max_batch=32)
    frames, captions = [], []

    def look(step: Step) -> None:
        noisy = step["x"][0] / (1 + step["sigma"] ** 2) ** 0.5
        frames.append(_beside(ring_image(noisy, scale=3), ring_image(step["denoised"][0], scale=3)))
        captions.append(f"← noisy      σ = {step['sigma']:.2g}      denoised →")

    shape = (1, *graph.event_shape)
    (last,) = sample(joint, karras(24, 0.01, 10.0), shape=shape, generator=0, callback=look)
    frames.append(_beside(*[ring_image(last, scale=3)] * 2))
    animate(frames, IMAGES / "ring.gif", captions=[*captions, "σ = 0"])


def sphere() -> None:
    """A turn within one of the experiment's spheres, and within what was asked for."""
    page = (IMAGES.parent / "_static" / "experiment_sphere.html").read_text("utf-8")
    text = page.split("const spheres = ")[1].split(";\n")[0]
    shown = json.loads(text)["A panorama of the training set (park)"]
    pictures = [shown[name] for name in ("what was asked for", "half-face windows")]
    views = [np.asarray(Image.open(BytesIO(b64decode(each)))) / 127.5 - 1 for each in pictures]
    across, down = np.meshgrid(np.linspace(-1, 1, 240), np.linspace(-0.65, 0.65, 156))
    latitude = np.arctan2(-down, np.hypot(across, 1))  # 90 degrees wide
    frames = []
    for turn in np.arange(0, 2 * np.pi, np.pi / 15):
        longitude = (np.arctan2(across, 1) + turn) % (2 * np.pi)
        seen = []
        for view in views:
            height, width, _ = view.shape
            row, column = (0.5 - latitude / np.pi) * height, (0.5 + longitude / (2 * np.pi)) * width
            places = [row - 0.5, (column - 0.5) % width]
            colours = [
                map_coordinates(c, places, order=1, mode="grid-wrap") for c in view.T.swapaxes(1, 2)
            ]
            seen.append(torch.from_numpy(np.stack(colours)))
        frames.append(_beside(*seen))
    animate(frames, IMAGES / "gallery_sphere.gif", hold=0.15)


def _relative_error(joint: Joint, data: Gaussian, sigma: float) -> float:
    """√(E‖ŝ - s‖² / E‖s‖²) over u ~ q_σ = N(0, C): with ŝ = -Ĵu, √(tr(ΔCΔᵀ) / tr C⁻¹)."""
    covariance = data.noised(sigma).covariance
    precision = torch.linalg.inv(covariance)
    composed = -joint(torch.eye(len(precision)).to(precision), sigma).T  # column j: -ŝ(e_j)
    difference = composed - precision
    ratio = torch.trace(difference @ covariance @ difference.T) / torch.trace(precision)
    return float(ratio.sqrt())


def _beside(left: Tensor, right: Tensor) -> Tensor:
    gap = torch.ones(*left.shape[:-1], 16)
    return torch.cat([left, gap, right], dim=-1)


def _save(figure: Figure, name: str, dpi: int) -> None:
    figure.savefig(IMAGES / f"{name}.png", dpi=dpi)


PICTURES: Mapping[str, Callable[[], None]] = {
    "nested_cubemap": nested,
    "cylinder": cylinder,
    "graph_gallery": gallery,
    "counts_over_image": counts_over_image,
    "flow": information_flow,
    "error_against_sigma": error_against_sigma,
    "plans": plans,
    "ring": ring,
    "gallery_sphere": sphere,
}


if __name__ == "__main__":
    run(PICTURES, __doc__)
