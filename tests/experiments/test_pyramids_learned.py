"""A learned pyramid: its means and costs, the smoke run, and what the committed result says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import pyramids_learned as learned
from experiments.pyramid_model import LENGTH, MODEL, TILE, blocks, means
from pgmdiff.graphs import Pyramid

RESULT = Path(learned.__file__).parent / "results" / "pyramids_learned.json"


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return learned.run(smoke=True)


def test_means_are_those_of_the_pyramid() -> None:
    """Of every place where a tile may begin: row 3 of the states, tiles from column 2."""
    graph, states = learned.graphs()["pyramid"], blocks()
    assert isinstance(graph, Pyramid)
    expected = graph.means(states[3, :, 2 : 2 + LENGTH], 1)
    found = means(states)[2 * len(states) + 3][:, : LENGTH // TILE]
    assert torch.allclose(found, expected, atol=1e-6)


def test_the_networks_know_all_shapes_of_the_graphs() -> None:
    models = list(MODEL.denoisers().values())
    for graph in learned.graphs().values():
        for group in learned.regions(graph).groups:
            level = group.model[0] if isinstance(graph, Pyramid) else 0
            assert f"1x{group.shape[1]}" in models[level].filters


def test_graphs_cost_the_same() -> None:
    sizes = learned.Sizes()
    costs = [learned.steps_of(name, sizes) * learned.seen(name) for name in learned.graphs()]
    assert max(costs) < 1.02 * min(costs)


def test_tables_and_pictures(result: dict[str, Any], tmp_path: Path) -> None:
    quality, gate, copies = learned.tables(result)
    assert quality.head[:4] == ("graph", "rule", "levels", "values")
    assert len(quality.rows) == 2 + 4 * 2
    assert gate.head[2:] == ("network", "linear", "held network", "held linear")
    assert len(copies.rows) == 6
    learned.draw(result, tmp_path)
    for name in ("sea", "learned"):
        assert (tmp_path / f"experiment_pyramids_{name}.png").stat().st_size > 10_000


def test_only_the_pyramid_knows_of_two_days_before() -> None:
    """Of the committed result: temperatures 42 hours apart are negatively correlated."""
    rows = json.loads(RESULT.read_text())["quality"]["rows"]
    apart = {(row["graph"], row.get("rule")): row["lag_84"][0] for row in rows}
    truth = apart.pop(("other days", None))
    assert truth < -0.2
    for (graph, rule), found in apart.items():
        near = graph == "pyramid" or rule is None
        assert abs(found - truth) < 0.05 if near else abs(found) < 0.1
