"""The pictures of the docs are those that the scripts draw."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pgmdiff.graphs import chain
from scripts import draw_concepts, draw_docs


def test_every_picture_has_a_command() -> None:
    here = {path.stem for path in draw_docs.IMAGES.iterdir()}
    concepts = {f"concepts_{name}" for name in draw_concepts.PICTURES}
    commands = {*draw_docs.PICTURES, *concepts}
    written = ("demo", "exactness", "experiment", "scale")  # by the demo, and by --figure
    written += ("gallery", "hero")  # by draw_hero, and by the gallery
    others = {name for name in here - commands if not name.startswith(written)}
    assert commands <= here
    assert not others, "draw them in scripts/, or delete them"
    assert (draw_docs.IMAGES / "ring.gif").stat().st_size < 1_500_000


@pytest.mark.parametrize("draw", ["graph_gallery", "flow"])
def test_pictures_are_drawn(draw: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw_docs, "IMAGES", tmp_path)
    command: Callable[[], None] = draw_docs.PICTURES[draw]
    command()
    assert (tmp_path / f"{draw}.png").stat().st_size > 20_000


def test_the_error_of_a_score_is_what_samples_say() -> None:
    graph = chain(8)
    data = draw_docs.ar1(8, 0.9)
    joint = draw_docs.compose(graph, draw_docs.node_scores(graph, data))
    u = data.noised(0.5).sample(200_000, torch.Generator().manual_seed(0))
    truth = data.score(u, 0.5)
    sampled = (joint(u, 0.5) - truth).norm() / truth.norm()
    assert draw_docs._relative_error(joint, data, 0.5) == pytest.approx(float(sampled), rel=0.01)


def test_pieces_disagree_and_then_agree_next_to_the_exact_mean() -> None:
    gaps, errors = [], []
    for agreed in (False, True):
        _, exact, composed, said = draw_concepts.denoised(agreed=agreed)
        assert len(said) == 5 + 4
        gaps.append(max(abs(v - composed[int(i)]) for seen in said.values() for i, v in seen.T))
        errors.append((composed - exact).abs().max())
    assert gaps[0] > 1
    assert gaps[1] < 1e-7
    assert errors[1] < errors[0] / 10
