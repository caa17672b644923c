"""Crops are the regions of a graph in data, or windows anywhere, with the conditions of both."""

from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pgmdiff import GraphError, PgmdiffError, ScoreError, ShapeError, compose, field
from pgmdiff.composition.fields import placed
from pgmdiff.composition.local import Everything
from pgmdiff.graphs import FactorGraph, chain, cubemap, nested_cubemap, tiles
from pgmdiff.models.unet import UNet
from pgmdiff.training import EDMDenoiser, crops, fit, positions, train

PAIR = FactorGraph.from_scopes({"f": ("a", "b")}, {"a": (2,), "b": ()})
GRAPHS = {
    "open": tiles((2, 6, 8), (2, 4, 4), (0, 2, 2)),
    "periodic": tiles((6, 8), (4, 4), (2, 2), periodic=(False, True)),
    "series": tiles((12,), 4, 2),
    "cube": cubemap(4, channels=2),
    "nested cube": nested_cubemap(4),
    "chain": chain(4, shape=(3,)),
    "nested": PAIR.nest({"f": chain(3)}),
}


def numbered(n: int, shape: tuple[int, ...]) -> Tensor:
    """States whose entries say which they are: 1000 times the state plus the element."""
    states = torch.arange(torch.Size(shape).numel()).reshape(shape)
    return 1000.0 * torch.arange(n).reshape(-1, *[1] * len(shape)) + states


def paired(*both: Tensor) -> list[Any]:
    return [*zip(*both, strict=True)]


def loaded(*both: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*both), batch_size=4)


@pytest.mark.parametrize("kind", GRAPHS)
def test_crops_are_the_regions_of_a_graph(kind: str) -> None:
    """Every counted region is drawn, of every state, and nothing else is; half are overlaps."""
    regions = GRAPHS[kind].regions
    counted = [
        (group.indices(row, row + 1)[0], bool(group.outer[row]))
        for group in regions.groups
        for row in range(len(group))
        if group.counts[row] or group.outer[row]
    ]
    known = {tuple(elements.flatten().tolist()) for elements, _ in counted}
    shapes = {tuple(elements.shape) for elements, _ in counted}
    cut = crops(GRAPHS[kind], numbered(3, regions.event_shape))
    generator = torch.Generator().manual_seed(0)
    drawn = [cut.draw(100, generator) for _ in range(60)]
    seen = set()
    for crop in drawn:
        flat = crop.clean.reshape(100, -1)
        owner = flat[:, 0] // 1000
        assert set(owner.tolist()) <= {0, 1, 2}
        assert tuple(crop.clean.shape[1:]) in shapes
        elements = (flat - 1000 * owner[:, None]).long()
        seen |= {(*row, int(o)) for row, o in zip(elements.tolist(), owner, strict=True)}
        axes = torch.tensor(regions.event_shape)
        first = torch.stack(torch.unravel_index(elements[:, 0], regions.event_shape), 1)
        torch.testing.assert_close(crop.position, first / axes)
    assert seen == {(*region, owner) for region in known for owner in range(3)}


def test_half_of_the_crops_are_overlaps() -> None:
    data = torch.randn(2, 8, 8)
    for half in (0.0, 0.3, 1.0):
        cut = crops(tiles((8, 8), (4, 4), (2, 2)), data, half=half)
        stream = torch.Generator().manual_seed(0)
        shapes = Counter(tuple(cut.draw(1, stream).clean.shape[1:]) for _ in range(400))
        assert shapes[4, 4] / 400 == pytest.approx(1 - half, abs=0.08 * (0 < half < 1))
        assert shapes[2, 2] + shapes[4, 2] + shapes[2, 4] == 400 - shapes[4, 4]


def test_windows_are_cut_anywhere_in_states_of_any_size() -> None:
    data = [numbered(1, (1, 6, 7))[0], 1000 + numbered(1, (1, 9, 5))[0]]
    cut = crops({(1, 4, 5): 0.9, (1, 2, 3): 0.1}, data)
    seen = set()
    stream, shapes = torch.Generator().manual_seed(0), Counter[tuple[int, ...]]()
    for _ in range(300):
        crop = cut.draw(8, stream)
        shapes[tuple(crop.clean.shape[1:])] += 1
        for clean, position in zip(crop.clean, crop.position, strict=True):
            state = data[int(clean[0, 0, 0] // 1000)]
            first = (position * torch.tensor(state.shape)).round().long().tolist()
            window = zip(first, clean.shape, strict=True)
            expected = state[tuple(slice(start, start + size) for start, size in window)]
            assert torch.equal(clean, expected)
            seen.add((tuple(clean.shape), int(clean[0, 0, 0])))
    places = {n: 3 * 3 + 6 * 1 if n == 4 else 5 * 5 + 8 * 3 for n in (4, 2)}
    assert Counter(shape[1] for shape, _ in seen) == places
    assert shapes[1, 4, 5] / 300 == pytest.approx(0.9, abs=0.06)


def test_named_variables_are_packed() -> None:
    graph = PAIR
    values = {"a": torch.randn(5, 2), "b": torch.randn(5)}
    packed = crops(graph, graph.pack(values)).draw(7, 0).clean
    assert torch.equal(crops(graph, values).draw(7, 0).clean, packed)
    items = [{"a": values["a"][i], "b": values["b"][i]} for i in range(5)]
    assert torch.equal(crops(graph, items).draw(7, 0).clean, packed)


class Stream(IterableDataset[Any]):
    """Single states, one after the other."""

    def __init__(self, data: Tensor, label: Tensor | None) -> None:
        self.data, self.label = data, label

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data if self.label is None else zip(self.data, self.label, strict=True))


def test_datasets_and_loaders() -> None:
    """They give the crops and labels of the tensors that they hold."""
    data, label = torch.randn(6, 1, 8), torch.arange(6)
    where = [(1, 4), (1, 2)]
    expected = crops(where, data, labels={"label": label}).draw(4, 0)
    found = crops(where, TensorDataset(data, label)).draw(4, 0)
    assert torch.equal(found.clean, expected.clean)
    assert torch.equal(found.condition["label"], expected.condition["label"])
    loader = DataLoader(TensorDataset(data, label), batch_size=3)
    cut = crops([(1, 8)], loader)
    for rows in ([0, 1, 2], [3, 4, 5], [0, 1, 2]):
        crop = cut.draw(3, 0)
        assert torch.equal(crop.clean, data[rows])
        assert crop.condition["label"].tolist() == rows
    for pairs in (True, False):
        stream = crops([(1, 8)], Stream(data, label if pairs else None))
        for rows in ([0, 1, 2, 3], [4, 5, 0, 1]):
            crop = stream.draw(4, 0)
            assert torch.equal(crop.clean, data[rows])
            assert not pairs or crop.condition["label"].tolist() == rows
    cut = crops([(1, 8)], DataLoader(TensorDataset(data, label), batch_size=6))
    drawn = [cut.draw(2, 0).condition["label"].tolist() for _ in range(6)]
    assert drawn == [[0, 1], [2, 3], [4, 5]] * 2, "a batch that is larger is used up"
    cut = crops([(1, 8)], iter([data]))
    cut.draw(6)
    with pytest.raises(PgmdiffError, match="no batches left"):
        cut.draw(3)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("n", "batch", "states"), [(4, 4, 5), (4, 2, 5), (1, 4, 5), (7, 3, 8)])
def test_every_state_of_a_loader_is_drawn_equally_often(
    n: int, batch: int, states: int, shuffle: bool
) -> None:
    """A last batch that is short filled a step with copies of its states."""
    data = TensorDataset(torch.randn(states, 1, 8), torch.arange(states))
    stream = torch.Generator().manual_seed(0)
    cut = crops([(1, 8)], DataLoader(data, batch, shuffle=shuffle, generator=stream))
    drawn = torch.cat([cut.draw(n, 0).condition["label"] for _ in range(3 * states)])
    assert torch.bincount(drawn).tolist() == [3 * n] * states


def test_a_loader_serves_again_after_an_error() -> None:
    class Flaky(TensorDataset):
        fails = True

        def __getitem__(self, number: int) -> Any:
            if self.fails and number == 3:
                raise OSError("no answer")
            return super().__getitem__(number)

    data = Flaky(torch.randn(5, 1, 8))
    cut = crops([(1, 8)], DataLoader(data, batch_size=2))
    with pytest.raises(OSError, match="no answer"):
        cut.draw(4, 0)
    data.fails = False
    assert torch.equal(cut.draw(4, 0).clean, data.tensors[0][:4])


def test_conditions_of_nodes_and_states() -> None:
    """A crop has its node's condition and its state's label; a null condition replaces them."""
    graph = chain(3, shape=(2,), factor_model="pair", variable_model="one")
    names = {"f0": 1.0, "f1": 2.0, "x0": 7.0, "x1": 3.0, "x2": 9.0}
    conditions = {name: {"y": torch.tensor(value)} for name, value in names.items()}
    data, label = numbered(4, (6,)), torch.arange(4)
    options: Any = {"conditions": conditions, "labels": {"label": label}, "position": True}
    crop = crops(graph, data, **options, half=0).draw(200, 0)
    first = crop.clean[:, 0] % 1000
    assert torch.equal(crop.condition["y"], 1 + first / 2)
    assert torch.equal(crop.condition["label"], (crop.clean[:, 0] // 1000).long())
    assert torch.equal(crop.condition["position"], first[:, None] / 6)
    null = {"y": torch.tensor(-1.0), "label": 4}
    options["conditions"] = {name: conditions[name] for name in ("f0", "f1")}
    overlap = crops(graph, data, **options, half=1, null_condition=null, null_probability=0)
    assert (overlap.draw(9, 0).condition["y"] == -1).all(), "as compose does"
    crop = crops(graph, data, **options, half=0, null_condition=null, null_probability=0.3).draw(
        2000, 0
    )
    dropped = crop.condition["y"] == -1
    assert torch.equal(dropped, crop.condition["label"] == 4)
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert torch.equal(crop.condition["position"][:, 0] * 6, crop.clean[:, 0] % 1000)


@pytest.mark.parametrize("pairs", [None, TensorDataset, paired, loaded])
@pytest.mark.parametrize("null", [4, torch.tensor(4), None])
@pytest.mark.parametrize("network", ["UNet", "EDMDenoiser", "another"])
def test_labels_that_count_from_one_are_warned_of(pairs: Any, null: Any, network: str) -> None:
    """The last of them is the null class, as fit knows from null_condition or from the network."""
    data, graph = torch.randn(8, 1, 8), tiles((1, 8), (1, 4), (0, 2))
    own: Any = UNet(1, (8, 8), 8, axes=1, classes=4)
    if network == "EDMDenoiser":
        own = EDMDenoiser(own, 1.0)
    if network == "another":
        own.null_condition = None  # as a network that says nothing of it
    told = {} if null is None else {"null_condition": {"label": null}}
    for first in (0, 1):
        label = first + torch.arange(8) % 4
        given: Any = pairs(data, label) if pairs else data
        labels = None if pairs else {"label": label}
        silent = first == 0 or (null is None and network == "another")
        with nullcontext() if silent else pytest.warns(match="the label 4, which is the null"):
            fit(graph, own, given, labels=labels, steps=2, batch=64, generator=0, **told)
        if network == "EDMDenoiser":
            with nullcontext() if silent else pytest.warns(match="the label 4, which is the null"):
                train(own, crops(graph, given, labels=labels, **told), steps=2, generator=0)


@pytest.mark.parametrize("pairs", [None, TensorDataset])
def test_classes_without_labels_are_warned_of(pairs: Any) -> None:
    """Embeddings that no crop trains would be random numbers to whoever asks for a class."""
    data, graph = torch.randn(8, 1, 8), tiles((1, 8), (1, 4), (0, 2))
    network = UNet(1, (8, 8), 8, axes=1, classes=4)
    with pytest.warns(match="has classes, but crops come without a label"):
        fit(graph, network, pairs(data) if pairs else data, steps=1, generator=0)
    own = {name: {"label": torch.tensor(1)} for name in graph.pieces}  # and none on overlaps
    fit(graph, network, pairs(data) if pairs else data, steps=3, conditions=own, generator=0)


def test_null_labels_that_a_dtype_cannot_hold_are_refused() -> None:
    graph, data = tiles((8,), 4, 0), torch.randn(4, 8)
    with pytest.raises(ShapeError, match=r"crops: expected null_condition 'label' as what torch"):
        crops(graph, data, labels={"label": [0, 1, 2, 3]}, null_condition={"label": 4.5})


def test_labels_and_null_labels_of_overlaps() -> None:
    """Overlaps have their state's label, or always the null one if it is their own condition."""
    graph, data = GRAPHS["series"], numbered(4, (12,))
    null = {"label": torch.tensor(9)}
    options: Any = {"labels": {"label": [0, 1, 2, 3]}, "null_condition": null, "half": 1}
    crop = crops(graph, data, **options, null_probability=0.3).draw(2000, 0)
    dropped = crop.condition["label"] == 9
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert torch.equal(
        crop.condition["label"][~dropped], (crop.clean[:, 0] // 1000)[~dropped].long()
    )
    options["conditions"] = dict.fromkeys(set(graph.names) - set(graph.pieces), null)
    assert (crops(graph, data, **options).draw(50, 0).condition["label"] == 9).all()
    whole = crops(graph, data, **options | {"half": 0}, null_probability=0).draw(50, 0)
    assert torch.equal(whole.condition["label"], (whole.clean[:, 0] // 1000).long())
    ids = {"label": field(torch.arange(4)[:, None].expand(4, 12))}
    told = {"conditions": {name: {"label": torch.full((4,), 7)} for name in graph.pieces}}
    crop = crops(graph, data, labels=ids, half=0, **told).draw(5, 0)
    assert (crop.condition["label"] == 7).all(), "as a joint's call has it"


@pytest.mark.parametrize("kind", ["open", "cube", "nested"])
def test_positions_are_those_of_training(kind: str) -> None:
    graph = GRAPHS[kind]
    known = {tuple(p["position"].tolist()) for p in positions(graph).values()}
    crop = crops(graph, numbered(1, graph.regions.event_shape), half=0).draw(100, 0)
    assert {tuple(p.tolist()) for p in crop.position} <= known
    assert positions(graph).keys() == set(graph.regions.names)


def test_arrays_are_data() -> None:
    graph, data = chain(3), torch.randn(5, 3)
    given = [crops(graph, each).draw(4, 0).clean for each in (data, data.numpy())]
    assert torch.equal(*given)


def test_wrong_input_is_named() -> None:
    graph, network = chain(3), torch.nn.Linear(1, 1)
    with pytest.raises(
        ShapeError, match=r"expected states \[n, 3\], as the graph's, got \[n, 4\]\."
    ):
        crops(graph, torch.randn(5, 4)).draw(2)
    with pytest.raises(ShapeError, match=r"no smaller than a crop \(5,\)"):
        crops([(5,)], torch.randn(5, 4)).draw(2)
    with pytest.raises(PgmdiffError, match=r"floating-point tensors, got \[5, 3\] uint8"):
        crops(graph, torch.zeros(5, 3, dtype=torch.uint8))
    with pytest.raises(PgmdiffError, match="expected finite data"):
        crops(graph, torch.full((5, 3), torch.nan))
    unknown = torch.tensor([0.0, torch.nan, 0.0, 0.0, 0.0])
    with pytest.raises(PgmdiffError, match="expected finite labels 'y', got NaN"):
        crops(graph, torch.randn(5, 3), labels={"y": unknown})
    with pytest.raises(PgmdiffError, match="expected finite labels 'y', got NaN"):
        crops(graph, [(torch.randn(3), {"y": label}) for label in unknown]).draw(20, 0)
    own = crops(graph, torch.randn(5, 3), labels={"y": np.arange(5.0)}).draw(2, 0)
    assert own.condition["y"].dtype == torch.float32, "as states, which NumPy's labels are not"
    with pytest.raises(PgmdiffError, match="got dict"):
        crops([(3,)], {"a": torch.randn(5, 3)})
    with pytest.raises(ShapeError, match="expected labels 'label' with one entry per state"):
        crops(graph, torch.randn(5, 3), labels={"label": torch.zeros(4)})
    for what in ("labels", "conditions", "null_condition"):
        with pytest.raises(GraphError, match=f"crops: expected {what} as a dict, got Tensor"):
            fit(graph, network, torch.randn(5, 3), steps=1, **{what: torch.zeros(5)})
    with pytest.raises(ShapeError, match=r"expected labels 'label' as a tensor.*, got \['a'"):
        crops(graph, torch.randn(5, 3), labels={"label": [*"abcde"]})
    with pytest.raises(PgmdiffError, match="expected half from 0 to 1, got 2"):
        crops(graph, torch.randn(5, 3), half=2)
    with pytest.raises(GraphError, match="'f9'"):
        crops(graph, torch.randn(5, 3), conditions={"f9": {"y": torch.zeros(())}})
    words = r"crops: node 'f1' needs the model 'f1', .* networks \['f0', 'x1'\].* of another id"
    with pytest.raises(ScoreError, match=words):
        fit(graph, {"f0": network, "x1": network}, torch.randn(5, 3), steps=1)
    with pytest.raises(ScoreError, match=r"the model \(2,\), .* networks \[\(4,\)\]\. Add one"):
        fit(tiles((6,), 4, 2), {(4,): network}, torch.randn(5, 6), steps=1)
    with pytest.raises(ScoreError, match=r"no network for crops of shape \(2,\)"):
        fit([(3,), (2,)], {(3,): network}, torch.randn(5, 4), steps=1)


FIELDS = {  # the shape of a field of `GRAPHS[kind]`; channels in front, and their own number
    "open": (3, 6, 8),
    "periodic": (5, 6, 8),
    "series": (2, 12),
    "cube": (2, *GRAPHS["cube"].regions.event_shape),
    "chain": GRAPHS["chain"].regions.event_shape,
}


@pytest.mark.parametrize("kind", FIELDS)
def test_fields_are_cropped_like_the_states(kind: str) -> None:
    """As the joint crops them for the region of the graph that a crop is."""
    graph, shape = GRAPHS[kind].regions, FIELDS[kind]
    states, values = numbered(3, graph.event_shape), numbered(3, shape)
    seen: dict[tuple[int, ...], Tensor] = {}

    def score(x: Tensor, sigma: Tensor, low: Tensor) -> Tensor:
        for crop, part in zip(x, low, strict=True):
            seen[tuple(crop.flatten().long().tolist())] = part
        return -x

    joint = compose(graph, score, rule=Everything())
    for _ in joint.evaluate(
        states.reshape(3, -1),
        torch.ones(3),
        condition={"low": placed("", field(values), graph.event_shape, (3,))},
    ):
        pass
    cut, generator = crops(graph, states, labels={"low": field(values)}), torch.Generator()
    pairs = [(state, {"low": field(own)}) for state, own in zip(states, values, strict=True)]
    of_list = crops(graph, pairs)
    for _ in range(20):
        for crop in (cut.draw(20, generator), of_list.draw(20, generator)):
            for x, part in zip(crop.clean, crop.condition["low"], strict=True):
                torch.testing.assert_close(part, seen[tuple(x.flatten().long().tolist())])


def test_windows_anywhere_crop_fields_at_the_same_place() -> None:
    states, maps = numbered(2, (3, 9, 10)), numbered(2, (1, 9, 10))
    cut = crops([(3, 4, 4), (3, 4, 2)], states, labels={"map": field(maps)})
    for k in range(10):
        crop = cut.draw(5, k)
        element = crop.clean[:, 0].long() % 1000  # channel 0 counts as the map does
        owner = crop.clean[:, :1] // 1000
        torch.testing.assert_close(crop.condition["map"], 1000 * owner + element[:, None])
    pairs = [(state, {"map": field(own)}) for state, own in zip(states, maps, strict=True)]
    longer = [each[0].repeat(1, 2, 1) for each in (states, maps)]
    pairs += [(longer[0], {"map": field(longer[1])})]  # pictures of several sizes
    crop = crops([(3, 4, 4)], pairs).draw(50, 0)
    assert torch.equal(crop.condition["map"] % 1000, crop.clean[:, :1] % 1000)
    with pytest.raises(ShapeError, match=r"the field 'map' as \[n, \*channels, 3, 9, 10\]"):
        crops([(3, 4, 4)], states, labels={"map": field(maps[:, :, :8])}).draw(5, 0)
    with pytest.raises(ShapeError, match="one entry per state"):
        crops([(3, 4, 4)], states, labels={"map": field(maps[:1])})


def test_fields_of_graphs_with_single_variables() -> None:
    """A single variable gets the field's value in its place."""
    states, f = torch.randn(3, 6), torch.randn(3, 2, 6)
    cut, seen = crops(chain(6), states, labels={"f": field(f)}), set()
    for seed in range(8):
        crop = cut.draw(5, seed)
        for clean, given in zip(crop.clean.reshape(5, -1), crop.condition["f"], strict=True):
            for value, own in zip(clean, given.reshape(2, -1).T, strict=True):
                sample, place = (states == value).nonzero()[0]
                assert torch.equal(own, f[sample, :, place])
        seen.add(crop.clean.ndim)
    assert seen == {1, 2}
