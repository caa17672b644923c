import gc
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pgmdiff.models
from pgmdiff import ScoreError, ShapeError
from pgmdiff.diagnostics.metrics import frechet_distance, texture_features
from pgmdiff.models.gravel import SIGMA_DATA, gravel_denoiser, gravel_image, untrained
from pgmdiff.models.series import SeriesNet
from pgmdiff.models.tissue import tissue_denoiser
from pgmdiff.models.unet import EDMDenoiser, UNet
from pgmdiff.samplers import DPMSolver2M, karras, sample
from pgmdiff.scores.adapters import from_denoiser
from pgmdiff.training import random_crops


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def photograph() -> Tensor:
    return gravel_image()


def test_bundled_weights_are_small_and_have_a_card() -> None:
    folder = Path(pgmdiff.models.__file__).parent
    weights = list(folder.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in weights) < 5e6
    for path in weights:
        card = path.with_suffix(".md").read_text()
        assert all(word in card for word in ("Data", "Training", "Gate", "Licence"))
        licences = ("CC0", "used and redistributed for free", "No known copyright restrictions")
        assert any(licence in card for licence in licences)


def test_cards_have_the_hashes_of_their_weights() -> None:
    root = Path(pgmdiff.models.__file__).parents[2]
    weights = [
        *root.glob("pgmdiff/models/*.safetensors"),
        *root.glob("benchmarks/**/*.safetensors"),
        *root.glob("experiments/**/*.safetensors"),
    ]
    assert len(weights) >= 10
    assert sum(path.stat().st_size for path in weights) < 5e6
    for path in weights:
        card = path.with_suffix(".md")
        if not card.exists():  # sea_pair and sea_single have one card, sea
            card = path.with_name(f"{path.stem.split('_')[0]}.md")
        assert sha256(path.read_bytes()).hexdigest() in card.read_text()


def test_a_model_that_is_let_go_leaves_no_memory() -> None:
    """Two integers for each of 92 tensors would be 184 blocks."""

    def blocks() -> int:
        gc.collect()
        return sys.getallocatedblocks()

    gravel_denoiser()
    before = blocks()
    for _ in range(20):
        gravel_denoiser()
    assert blocks() - before < 20 * 20


def test_the_photograph(photograph: Tensor) -> None:
    assert photograph.shape == (1, 256, 256)
    assert photograph.abs().max() <= 1
    assert photograph.std().item() == pytest.approx(SIGMA_DATA, abs=5e-4)


def test_preconditioning() -> None:
    """A network of zeros is the best linear denoiser of white data with standard deviation σ_d."""
    unet = UNet()
    torch.nn.init.zeros_(unet.leave.bias)
    model = EDMDenoiser(unet, 0.5)
    x, sigma = torch.randn(3, 1, 8, 8, generator=generator()), torch.tensor([0.1, 0.5, 2.0])
    expected = x * (0.25 / (sigma**2 + 0.25)).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(model(x, sigma), expected)
    for one in (0.5, torch.tensor(0.5)):  # a number is the noise level of all
        torch.testing.assert_close(model(x, one), model(x, torch.full((3,), 0.5)))
    with pytest.raises(ShapeError, match="multiples of 4, got an image of \\(8, 6\\)"):
        model(torch.zeros(1, 1, 8, 6), torch.ones(1))


@pytest.mark.parametrize("kind", [UNet, SeriesNet])
def test_networks_take_conditions(kind: type[UNet | SeriesNet]) -> None:
    """Each condition counts; what is missing is the null class or a field of 0."""
    conditions = {"classes": 3, "position": 2, "field": 1, "noise_field": True}
    sizes = (8, 8) if kind is UNet else (9,)
    network = kind(features=16, **conditions)
    for parameter in network.parameters():  # the last layers are 0 at first
        torch.nn.init.normal_(parameter, std=0.3)
    x, noise = torch.randn(4, 1, *sizes), torch.randn(4)
    given = {"label": torch.arange(4), "position": torch.rand(4, 2)}
    given["field"] = torch.randn(4, 1, *sizes)
    whole = network(x, noise, **given)
    assert whole.shape == x.shape
    for name in given:
        without = network(x, noise, **{k: v for k, v in given.items() if k != name})
        same = [torch.allclose(*pair, atol=1e-5) for pair in zip(whole, without, strict=True)]
        assert same == [False, False, False, name == "label"], name
    zeros = torch.zeros_like(given["field"])
    torch.testing.assert_close(network(x, noise, field=zeros), network(x, noise))
    each = noise.reshape(-1, *[1] * (x.ndim - 1)).expand_as(x)
    torch.testing.assert_close(network(x, each), network(x, noise), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(network(x, each + torch.randn_like(x)), whole)
    for name in given:
        with pytest.raises(ShapeError, match=f"got {name}, which it was made without"):
            kind()(x, noise, **{name: given[name]})
    with pytest.raises(ShapeError, match="expected an even number of features, got 33"):
        kind(features=33)
    with pytest.raises(ShapeError, match="got a noise level per element"):
        kind()(x, each)
    with pytest.raises(ShapeError, match=r"expected x of torch\.float32, as its weights are"):
        kind()(x.double(), noise)
    for word in ("classes", "position", "field"):
        for n in (True, -1, 2.0):
            with pytest.raises(ShapeError, match=f"expected {word}= as a number .*, got {n}"):
                kind(**{word: n})
    for position in (torch.rand(4, 3), torch.rand(2), 0.5):
        with pytest.raises(ShapeError, match=r"^position: expected a tensor \[batch, 2\], got"):
            network(x, noise, position=position)
    one = network(x, noise, label=torch.ones(4, dtype=torch.uint8))
    for label in (1, torch.tensor(1)):  # of all, a condition of a node
        torch.testing.assert_close(one, network(x, noise, label=label))
    for label in (1 + torch.arange(4), 4, 2.0, torch.tensor(4), torch.tensor(1.0)):
        with pytest.raises(ShapeError, match=r"from 0 to 3, the null class, .* count from 0"):
            network(x, noise, label=label)


def test_a_shape_that_a_model_was_not_trained_on_is_warned_of() -> None:
    model, sigma = tissue_denoiser(), torch.ones(1)
    model(torch.zeros(1, 3, 32, 16), sigma)
    words = r"states of \(3, 32, 24\), but it was trained on 3x16x16"
    with pytest.warns(UserWarning, match=words) as said:
        from_denoiser(model)(torch.zeros(1, 3, 32, 24), sigma)
    assert said[0].filename == __file__, "a warning points to the line that called the library"


def test_series_have_any_length_and_a_reach() -> None:
    network = SeriesNet(width=8, depth=3)
    torch.nn.init.normal_(network.leave.weight)
    noise = torch.zeros(2)
    assert [network(torch.randn(2, n), noise).shape[1] for n in (1, 2, 7)] == [1, 2, 7]
    x = torch.randn(2, 7)
    assert torch.equal(network(x[:, None], noise)[:, 0], network(x, noise))


def test_samples_do_not_see_each_other() -> None:
    model, x = gravel_denoiser(), torch.randn(4, 1, 16, 8, generator=generator())
    sigma = torch.tensor([0.1, 0.3, 1.0, 5.0])
    apart = torch.cat([model(x[i : i + 1], sigma[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(model(x, sigma), apart, rtol=1e-4, atol=1e-5)


N = 256
SIZES = [(16, 16), (16, 8), (8, 16), (8, 8)]


def drawn(denoiser: EDMDenoiser, shape: tuple[int, int]) -> Tensor:
    """The features of samples."""
    score = from_denoiser(denoiser.requires_grad_(False))
    levels = karras(12, 0.01, 10.0)
    x = sample(score, levels, shape=(N, 1, *shape), solver=DPMSolver2M(), generator=0)
    return texture_features(x)


def distances(photograph: Tensor, found: Tensor, shape: tuple[int, int]) -> tuple[float, float]:
    """Fréchet distances from real crops: of the features found, and of as many other crops."""
    real, other = (
        texture_features(random_crops(photograph, shape, N, generator=generator(seed)))
        for seed in (0, 1)
    )
    return frechet_distance(real, found), frechet_distance(real, other)


@pytest.mark.parametrize("shape", SIZES)
def test_gravel_patches_have_gravel_statistics(shape: tuple[int, int], photograph: Tensor) -> None:
    """A small version of the gate of `scripts/train_gravel.py`, with the floor of 256 samples."""
    distance, floor = distances(photograph, drawn(gravel_denoiser(), shape), shape)
    assert distance < 2 * floor


def test_patches_of_an_untrained_network_do_not(photograph: Tensor) -> None:
    """The smallest size is the one at which features tell least."""
    distance, floor = distances(photograph, drawn(untrained(), (8, 8)), (8, 8))
    assert distance > 10 * floor


@pytest.mark.parametrize(
    ("network", "state", "words"),
    [
        (UNet(channels=1), (3, 8, 8), r"UNet: expected \[batch, 1, height, width\], got \[2, 3"),
        (UNet(channels=3), (8, 8), r"UNet: expected \[batch, 3, height, width\], got \[2, 8, 8"),
        (SeriesNet(), (2, 8), r"SeriesNet: expected \[batch, 1, n\], got \[2, 2, 8\]"),
        (SeriesNet(2), (8,), r"SeriesNet: expected \[batch, 2, n\], got \[2, 8\]"),
    ],
)
def test_states_with_other_channels_are_refused(
    network: UNet | SeriesNet, state: tuple[int, ...], words: str
) -> None:
    """A series of two channels was taken for one of twice the length."""
    with pytest.raises(ShapeError, match=words):
        network(torch.zeros(2, *state), torch.zeros(2))


def test_widths_are_multiples_of_8() -> None:
    for make in (
        lambda: UNet(widths=(16, 20)),
        lambda: UNet(widths=()),
        lambda: SeriesNet(width=4),
    ):
        with pytest.raises(ShapeError, match="expected positive multiples of 8"):
            make()


def test_a_network_without_a_place_for_the_noise_is_refused() -> None:
    with pytest.raises(ScoreError, match=r"got Conv1d\(input.* Wrap it in a module"):
        EDMDenoiser(torch.nn.Conv1d(1, 1, 3), 1.0)


@pytest.mark.parametrize(
    ("network", "shape"), [(UNet(widths=(8, 8, 8)), (1, 4, 4)), (SeriesNet(width=8), (1,))]
)
def test_one_value_per_group_is_no_matter_of_the_batch(
    network: torch.nn.Module, shape: tuple[int, ...]
) -> None:
    """PyTorch's normalisation refuses a single value, of one sample only."""
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, generator=generator())
    x, noise = torch.randn(2, *shape, generator=generator()), torch.zeros(2)
    torch.testing.assert_close(network(x[:1], noise[:1]), network(x, noise)[:1])


@pytest.mark.parametrize("network", [UNet(), SeriesNet()])
def test_networks_begin_as_zero(network: torch.nn.Module) -> None:
    """So that a denoiser begins as its linear part."""
    x = torch.randn(2, 1, *([8] * (2 if isinstance(network, UNet) else 1)))
    assert not network(x, torch.zeros(2)).any()
