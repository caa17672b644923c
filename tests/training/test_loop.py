"""The loss of the best linear denoiser is 1; training approaches exact denoisers, and resumes."""

import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pgmdiff import PgmdiffError, ShapeError, compose, field, from_denoiser
from pgmdiff.gaussian import Gaussian
from pgmdiff.graphs import FactorGraph, chain, tiles
from pgmdiff.models.series import SeriesNet
from pgmdiff.models.unet import UNet, save_weights, trained
from pgmdiff.noise import Noise, split_seed
from pgmdiff.samplers import Run
from pgmdiff.training import (
    EDMDenoiser,
    WienerFilter,
    crops,
    denoising_loss,
    fit,
    random_crops,
)
from tests.training import runs


def test_random_crops_are_crops() -> None:
    image = torch.arange(2 * 6 * 5.0).reshape(2, 6, 5)
    crops = random_crops(image, (3, 4), 50, generator=0)
    assert crops.shape == (50, 2, 3, 4)
    windows = image.unfold(1, 3, 1).unfold(2, 4, 1).movedim(0, 2).reshape(-1, 2, 3, 4)
    found = (crops[:, None] == windows).flatten(2).all(dim=2)
    assert found.any(dim=1).all()
    assert found.any(dim=0).all(), "every place is drawn"
    with pytest.raises(ShapeError, match="no larger than the image"):
        random_crops(image, (7, 4), 1, generator=0)


def test_denoising_loss() -> None:
    """1 for the best linear denoiser of white data: EDM's weighting makes it so at every σ."""
    clean = 0.5 * torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))

    def linear(x: Tensor, sigma: Tensor) -> Tensor:
        return x * (0.25 / (sigma**2 + 0.25))[:, None]

    loss = denoising_loss(linear, clean, sigma_data=0.5, generator=1).item()
    assert loss == pytest.approx(1.0, abs=4 * (2 / clean.numel()) ** 0.5 * 3)
    assert denoising_loss(lambda x, s: clean, clean, sigma_data=0.5, generator=0) == 0


@pytest.fixture(scope="module")
def separable() -> Gaussian:
    """Two rows of three numbers, far from 0, whose covariance has a factor per axis."""
    rows, columns = torch.tensor([[2.0, 0.9], [0.9, 1.0]]), 3 * torch.eye(3) + torch.ones(3, 3)
    return Gaussian(torch.arange(6.0) + 100, torch.kron(rows, columns))


class Nothing(nn.Module):
    """F = 0, with a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return self.weight * x


def test_a_wiener_filter_is_exact_for_separable_gaussians(separable: Gaussian) -> None:
    """Without a network the denoiser is E[u | x]; its error is the posterior's variance."""
    data = separable.sample(400_000, 0).reshape(-1, 2, 3)
    denoise = EDMDenoiser(Nothing(), 3.0, 100.0, filters=[WienerFilter.of(data)])
    covariance = separable.covariance.double()
    for sigma in (0.1, 1.0, 30.0):
        x = data[:100] + sigma * Gaussian(torch.zeros(6), torch.eye(6)).sample(100, 1).reshape(
            -1, 2, 3
        )
        right = exact(separable.mean, separable.covariance, x.flatten(1), sigma)
        wrong = denoise(x, torch.full((100,), sigma)).flatten(1) - right
        assert wrong.std() < 0.02 * (right - separable.mean).std(), sigma  # of 400,000 samples
        gain = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(6))
        error = denoise.linear_error((2, 3), torch.full((1, 1, 1), sigma)).item()
        assert error == pytest.approx(sigma**2 * gain.trace().item() / 6, rel=0.01)
    loss = denoising_loss(
        denoise, data[:4000], sigma_data=3.0, linear_error=denoise.linear_error, generator=1
    )
    assert loss.item() == pytest.approx(1.0, abs=0.05), "1 at every σ without a network"
    wide = denoise(x.double(), torch.full((100,), 30.0).double()).flatten(1)
    assert wide.dtype == torch.float64, "whether the dtype fits is said by the network"
    torch.testing.assert_close(wide - right, wrong.double(), atol=1e-3, rtol=0)
    plain = EDMDenoiser(Nothing(), 3.0, 100.0)(x, torch.full((100,), 30.0)).flatten(1) - right
    assert plain.std() > 0.1 * (right - separable.mean).std(), "EDM's c_skip does not suffice"
    with pytest.raises(ShapeError, match="one noise level per sample"):
        denoise(x, torch.ones_like(x))


class Whitened(Nothing):
    """Returns what it is given beside x, and keeps both."""

    whitened = True

    def forward(self, x: Tensor, noise: Tensor, *, residual: Tensor) -> Tensor:
        self.seen = x, residual
        return residual + self.weight


def test_autocast_rounds_the_network_alone(separable: Gaussian) -> None:
    """Not the filter, whose error would exceed the noise where that is low."""
    data = separable.sample(4_000, 0).reshape(-1, 2, 3)
    denoise = EDMDenoiser(Nothing(), 3.0, 100.0, filters=[WienerFilter.of(data)])
    x, sigma = data[:8].float(), torch.full((8,), 0.01)
    denoise = denoise.float()
    expected = denoise(x, sigma)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(denoise(x, sigma), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 30.0])
def test_a_whitened_network_sees_uncorrelated_channels(separable: Gaussian, sigma: float) -> None:
    """Of unit variance, beside a residual of unit variance; what it returns is turned back."""
    data = separable.sample(20_000, 0).reshape(-1, 2, 3)
    filters = [own := WienerFilter.of(data)]
    filters.append(WienerFilter.of(data[..., :2], own))
    assert torch.equal(filters[1].basis1, own.basis1), "one basis for the channels of all shapes"
    denoise = EDMDenoiser(network := Whitened(), 3.0, filters=filters)
    for shape in ((2, 3), (2, 2)):
        own = denoise.filters["x".join(map(str, shape))]
        x = data[..., : shape[1]] + sigma * torch.randn(len(data), *shape)
        found = denoise(x, torch.full((len(x),), sigma))
        residual = network.seen[1]
        for each in network.seen:
            channels = each.movedim(1, 0).flatten(1)
            torch.testing.assert_close(channels.cov(), torch.eye(2), atol=0.06, rtol=0)
        gain = own.gain(torch.full((1, 1, 1), sigma))
        c_out = sigma * gain.square().mean(2, keepdim=True).sqrt()
        expected = own.mean + own(x - own.mean, gain) + own.basis1 @ (c_out * residual)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
    with pytest.raises(ShapeError, match=r"states of \(2, 1\).*2x3, 2x2 only.*wiener=True"):
        denoise(x[..., :1], torch.ones(len(x)))
    with pytest.raises(ShapeError, match="made with whitened=True"):
        UNet(whitened=True)(torch.zeros(1, 1, 8, 8), torch.ones(1))


def test_whitened_networks_are_trained_and_saved(tmp_path: Path) -> None:
    """Both networks, whose filters of images share the basis of their channels."""
    images, series = torch.randn(9, 3, 8, 8).cumsum(1).cumsum(3), torch.randn(9, 12).cumsum(1)
    given: Any = {"steps": 2, "batch": 2, "generator": 0, "wiener": True}
    shapes = {(3, 8, 8): 0.5, (3, 8, 4): 0.5}
    unet = fit(shapes, UNet(3, widths=(8, 8), features=16, whitened=True), images, **given)
    assert torch.equal(*(own.basis1 for own in unet.filters.values()))
    fit([(12,), (8,)], SeriesNet(width=8, whitened=True), series, **given)
    save_weights(unet, tmp_path / "weights.safetensors")  # bases have other strides
    again = EDMDenoiser(UNet(3, widths=(8, 8), features=16, whitened=True), 1.0)
    again = trained(again, tmp_path / "weights.safetensors")
    x, sigma = images[..., :4], torch.ones(9)
    torch.testing.assert_close(again(x, sigma), unet(x, sigma), atol=0.05, rtol=0)  # in bfloat16


def test_a_state_dict_holds_all_of_a_denoiser(separable: Gaussian) -> None:
    """Shapes with and without filters, scales and means; a state without them leaves them."""
    data = separable.sample(500, 0).reshape(-1, 2, 3)
    shapes = {(2, 3): 0.5, (2, 2): 0.5}
    given: Any = {"steps": 2, "generator": 0, "wiener": True}
    denoise = fit(shapes, Nothing(), data, **given)
    assert {"2x3", "2x2"} == {*denoise.filters}
    assert denoise.mean == pytest.approx(data.mean().item(), rel=0.01)
    assert f"sigma_data={denoise.sigma_data:.4g}, mean={denoise.mean:.4g}" in repr(denoise)
    saved, copy = denoise.state_dict(), EDMDenoiser(Nothing(), 1.0)
    assert all(isinstance(value, Tensor) for value in saved.values())
    copy.load_state_dict(saved)
    assert (copy.sigma_data, copy.mean, copy.unit) == (
        denoise.sigma_data, denoise.mean, denoise.unit,
    )  # fmt: skip
    sigma = torch.full((500,), 2.0)
    for x in (data, data[:, :, :2]):
        torch.testing.assert_close(copy(x, sigma), denoise(x, sigma), rtol=0, atol=0)
    with pytest.warns(UserWarning, match="2x3"):
        assert torch.equal(copy(data[:, :1], sigma), denoise(data[:, :1], sigma))
    old = EDMDenoiser(Nothing(), 2.0, 3.0, unit=4.0)
    old.load_state_dict({"network.weight": torch.ones(())})
    assert (old.sigma_data, old.mean, old.unit, *old.filters) == (2.0, 3.0, 4.0)
    before = denoise(data, sigma)
    denoise.load_state_dict({"network.weight": denoise.network.weight})
    assert torch.equal(denoise(data, sigma), before), "filters are left, too"


def test_a_condition_that_training_always_gave_is_missed(tmp_path: Path) -> None:
    """Also after weights were saved; not if null conditions, or crops without it, were trained."""
    data, season = torch.randn(2, 9, 1, 32, generator=torch.Generator().manual_seed(0))
    shapes, graph = [(1, 16), (1, 8)], tiles((1, 32), (1, 16), (0, 8))
    x, sigma = torch.zeros(2, 1, 16), torch.ones(2)
    labels: Any = {"field": field(season)}

    def network() -> SeriesNet:
        return SeriesNet(1, width=8, depth=2, field=1, position=2)

    denoise = fit(shapes, network(), data, steps=2, labels=labels, position=True, generator=0)
    save_weights(denoise, tmp_path / "weights.safetensors")
    again = trained(EDMDenoiser(network(), 1.0), tmp_path / "weights.safetensors")
    for each in (denoise, again):
        assert each.always == {"field", "position"}
        each(x, sigma, field=x, position=torch.zeros(2, 2))
        with pytest.warns(UserWarning, match="got no 'field', with which it was always trained"):
            each(x, sigma, position=torch.zeros(2, 2))
    with pytest.warns(UserWarning, match="got no 'field', 'position'"):
        compose(graph, from_denoiser(denoise))(torch.zeros(1, 1, 32), 1.0)
    null: Any = {"labels": labels, "null_condition": {"field": 0.0}}
    for given in (null, {}):
        fit(shapes, network(), data, steps=2, generator=0, **given)(x, sigma)
    one = {graph.names[0]: {"position": torch.zeros(2)}}
    fit(graph, network(), data, steps=20, conditions=one, generator=0)(x, sigma)


def test_a_resumed_training_knows_of_crops_without_a_condition_before(tmp_path: Path) -> None:
    """Killed before its last step, whatever that draws; the finished one is read with it, too."""

    class Dies(SeriesNet):
        left = 10**6

        def forward(self, *inputs: Tensor, **condition: Tensor | None) -> Tensor:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().forward(*inputs, **condition)

    data = torch.randn(4, 1, 32, generator=torch.Generator().manual_seed(0))
    graph = tiles((1, 32), (1, 16), (0, 8))
    one: Any = {name: {"position": torch.zeros(2)} for name in graph.names[1:]}
    for seed in range(4):
        for conditions in (one, one | {graph.names[0]: one[graph.names[1]]}):
            options: Any = {"steps": 12, "conditions": conditions, "generator": seed}
            options["run"] = Run(tmp_path / f"{seed} {len(conditions)}", every=0)
            network = Dies(1, width=8, depth=1, position=2)
            network.left = 11
            with pytest.raises(KeyboardInterrupt):
                fit(graph, network, data, **options)
            network.left = 10**6
            for _ in range(2):
                found = fit(graph, network, data, **options)
                assert found.always == ({"position"} if len(conditions) > len(one) else set())


@pytest.mark.parametrize("wiener", [False, True])
@pytest.mark.parametrize("whitened", [False, True])
def test_without_noise_a_state_is_its_own_denoised_value(wiener: bool, whitened: bool) -> None:
    states = torch.randn(50, 2, 8, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    network = UNet(2, (8, 8), 8, axes=1, whitened=whitened)
    filters = [WienerFilter.of(states)] if wiener or whitened else []
    denoise = EDMDenoiser(network, 2.0, filters=filters)
    for sigma in (0.0, torch.zeros(50), 1e-30):
        torch.testing.assert_close(denoise(states, sigma), states)
    if not filters:
        half = EDMDenoiser(network.half(), 0.5)(states.half(), torch.zeros(50).half())
        torch.testing.assert_close(half, states.half())
    field = UNet(2, (8, 8), 8, axes=1, noise_field=True)
    torch.testing.assert_close(EDMDenoiser(field, 2.0)(states, torch.zeros_like(states)), states)


def test_one_state_has_no_variance() -> None:
    for states in (torch.randn(1, 2, 3), torch.randn(1, 2, 3).expand(9, 2, 3)):
        with pytest.raises(ShapeError, match=r"expected several states .* that differ"):
            WienerFilter.of(states)


def test_single_numbers_have_a_filter() -> None:
    """Each sample its own, not one of the batch's mean; it is saved, too."""
    x = 3 + 2 * torch.randn(5000, generator=torch.Generator().manual_seed(0))
    denoise = EDMDenoiser(Nothing(), 2.0, 3.0, filters=[WienerFilter.of(x)])
    sigma = torch.linspace(0.1, 9, 5000)
    expected = 3 + 4 / (4 + sigma**2) * (x - 3)
    torch.testing.assert_close(denoise(x, sigma), expected, atol=0.2, rtol=0)
    for n in (1, 7):
        torch.testing.assert_close(denoise(x[:n], sigma[:n]), denoise(x, sigma)[:n])
    error = denoise.linear_error((), sigma)
    torch.testing.assert_close(error, 4 * sigma**2 / (4 + sigma**2), atol=0, rtol=0.1)
    other = EDMDenoiser(Nothing(), 1.0)
    other.load_state_dict(denoise.state_dict())
    assert torch.equal(other(x, sigma), denoise(x, sigma))
    series = SeriesNet(width=8, depth=1)
    found = fit(chain(3), series, x[:4998].reshape(-1, 3), steps=2, wiener=True, generator=0)
    assert {*found.filters} == {"2", "number"}


def test_noise_levels_that_do_not_fit_are_named() -> None:
    denoise, x = EDMDenoiser(UNet(1, (8, 8), 8, axes=1), 2.0), torch.randn(2, 1, 4)
    for sigma in (torch.ones(3), torch.ones(2, 1)):
        with pytest.raises(ShapeError, match=r"expected sigma as one number, \[2\] or \(2, 1, 4\)"):
            denoise(x, sigma)
    for sigma in (torch.ones(2, dtype=torch.int64), torch.ones(2).double(), torch.ones(1)):
        assert torch.equal(denoise(x, sigma), denoise(x, torch.ones(2)))


def test_a_noise_level_per_element() -> None:
    """λ(σ_i) weights every element by its own level; samples hold two of them."""
    clean = torch.zeros(500, 6)
    seen: list[Tensor] = []

    def zero(x: Tensor, sigma: Tensor, unit: Tensor) -> Tensor:
        seen.append(sigma)
        return x.new_ones(()) * unit

    given: Any = {"sigma_data": 2.0, "per_element": True, "generator": 0}
    loss = denoising_loss(zero, clean, unit=torch.ones(500, 6), **given)
    (sigma,) = seen
    assert sigma.shape == clean.shape
    assert {len(row.unique()) for row in sigma} == {1, 2}
    torch.testing.assert_close(loss, ((sigma**2 + 4) / (2 * sigma) ** 2).mean())


def exact(mean: Tensor, covariance: Tensor, x: Tensor, sigma: float) -> Tensor:
    """E[u_0 | u_σ = x] = m + Σ (Σ + σ²)⁻¹ (x - m)."""
    gain = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(len(covariance)))
    return mean + (x - mean) @ gain.T


class Affine(nn.Module):
    """F(x, noise) = A x + b."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(size, size)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        assert noise.shape == x.shape[:1]
        out: Tensor = self.layer(x)
        return out


@pytest.mark.parametrize("unit", [1.0, 1000.0])
def test_affine_networks_learn_gaussians_in_any_units(unit: float) -> None:
    """One network per model id: pairs and single values of a chain, each its own marginal."""
    graph = chain(3, shape=(1,), factor_model="pair", variable_model="one")
    covariance = unit**2 * 0.8 ** (torch.arange(3.0)[:, None] - torch.arange(3)).abs()
    mean = torch.full((3,), 5 * unit)
    data = Gaussian(mean, covariance).sample(20_000, 0)
    torch.manual_seed(0)
    networks = {"pair": Affine(2), "one": Affine(1)}
    before = [parameter.clone() for parameter in networks["pair"].parameters()]
    sigma = 0.7 * unit
    level: Any = {"p_mean": math.log(sigma), "p_std": 0.0}
    found = fit(graph, networks, data, steps=150, batch=512, lr=0.2, generator=0, **level)
    noisy = mean + unit * 2 * torch.randn(200, 3)
    for name, size in (("pair", 2), ("one", 1)):
        x, at = noisy[:, :size], torch.full((200,), sigma)
        right = exact(mean[:size], covariance[:size, :size], x, sigma)
        wrong = found[name](x, at) - right
        assert wrong.std() < 0.02 * right.std(), name
        assert found[name].sigma_data == pytest.approx(unit, rel=0.03)
        assert not found[name].training
    assert all(map(torch.equal, before, networks["pair"].parameters())), "what is given stays"
    further = fit(graph, found, data, steps=2, generator=0, **level)
    assert further["pair"].sigma_data == found["pair"].sigma_data


@pytest.mark.parametrize("loader", [False, True])
def test_networks_in_processes_of_their_own(loader: bool) -> None:
    """They are what one process makes of them, bit for bit; a loader begins anew for each."""
    data: Any = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    data = DataLoader(data, batch_size=16) if loader else data
    graph = chain(3, shape=(1,), factor_model="pair", variable_model="one")
    networks = {"pair": Affine(2), "one": Affine(1)}
    options: Any = {"steps": 3, "generator": 0, "wiener": True}
    alone, together = (
        fit(graph, networks, data, processes=processes, **options) for processes in (1, 2)
    )
    for name in networks:
        assert together[name].state_dict().keys() == alone[name].state_dict().keys()
        for key, value in alone[name].state_dict().items():
            assert torch.equal(together[name].state_dict()[key], value), key


class Named(nn.Module):
    """D = the mean that its condition names."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 1)

    def forward(self, x: Tensor, noise: Tensor, y: Tensor) -> Tensor:
        return self.table(y).expand_as(x)


def test_conditions_reach_the_network() -> None:
    """A shared network with a condition y[f] per node learns the mean of each node's data."""
    graph = FactorGraph.from_scopes({f: (f"{f}0", f"{f}1") for f in "abc"})
    means = torch.tensor([[1.0], [5.0], [-3.0]]).expand(3, 2)
    data = means.flatten() + 0.01 * torch.randn(500, 6)
    conditions = {f: {"y": torch.tensor(k)} for k, f in enumerate("abc")}
    options: Any = {"steps": 250, "lr": 0.1, "generator": 0, "p_std": 0.1}
    denoiser = fit(graph, Named(), data, half=0, conditions=conditions, **options)
    sigma = torch.full((3,), 0.6 * denoiser.sigma_data)
    found = from_denoiser(denoiser).denoise(means, sigma, y=torch.arange(3))
    torch.testing.assert_close(found, means, atol=0.1, rtol=0)


def test_an_image_and_tiles() -> None:
    """Training on the tiles of a picture more than halves the loss on their overlaps."""
    image = (torch.sin(0.7 * torch.arange(16.0))[:, None] * torch.ones(16))[None, None]
    graph = tiles((1, 16, 16), (1, 8, 8), (0, 4, 4))
    network = UNet(widths=(8, 8), features=16, position=3)
    options: Any = {"steps": 60, "batch": 16, "lr": 0.01, "generator": 0}
    denoiser = fit(graph, network, image, position=True, **options)
    overlaps = crops(graph, image, half=1, position=True).draw(64, 1)
    loss = denoising_loss(
        denoiser, overlaps.clean, sigma_data=denoiser.sigma_data, generator=0, **overlaps.condition
    )
    assert loss < 0.5


def test_a_run_goes_on_after_sigkill(tmp_path: Path) -> None:
    """A process that dies in its twelfth step leaves what the same call ends bit for bit."""
    command = [sys.executable, "-m", "tests.training.runs", str(tmp_path)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    expected, found = runs.trained(None), runs.trained(tmp_path)
    assert [*found] == [*expected]
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    again = runs.trained(tmp_path)
    assert all(torch.equal(again[name], expected[name]) for name in expected), "from the file"
    with pytest.raises(PgmdiffError, match="another run: expected steps 30, got 31"):
        runs.trained(tmp_path, steps=31)
    with pytest.raises(PgmdiffError, match="another run: expected seed 3, got 4"):
        runs.trained(tmp_path, generator=4)
    with pytest.raises(PgmdiffError, match="another run: expected bf16 False, got True"):
        runs.trained(tmp_path, bf16=True)


def test_several_networks_have_a_folder_each(tmp_path: Path) -> None:
    """Without a generator a run has its own seed; what is finished returns at once."""
    graph, data = chain(3, shape=(1,), factor_model="pair", variable_model="one"), torch.randn(9, 3)
    networks = {"pair": Affine(2), "one": Affine(1)}
    first, again = (fit(graph, networks, data, steps=4, run=tmp_path) for _ in range(2))
    for name in networks:
        assert torch.equal(first[name].network.layer.weight, again[name].network.layer.weight)
        assert first[name].sigma_data == again[name].sigma_data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0000", "0001"]
    other = fit(graph, networks, data, steps=4)
    assert not torch.equal(other["pair"].network.layer.weight, first["pair"].network.layer.weight)
    with pytest.raises(PgmdiffError, match="another run: expected data and conditions"):
        fit(graph, networks, 1 + data, steps=4, run=tmp_path)


def test_networks_compute_in_bfloat16_where_it_is_asked_for() -> None:
    class Watched(nn.Module):
        kinds: ClassVar[set[torch.dtype]] = set()

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor, noise: Tensor) -> Tensor:
            self.kinds.add((found := self.layer(x)).dtype)
            return found

    data = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    for bf16, kind in ((None, torch.float32), (False, torch.float32), (True, torch.bfloat16)):
        Watched.kinds.clear()
        denoiser = fit([(4,)], Watched(), data, steps=2, generator=0, bf16=bf16)
        assert Watched.kinds == {kind}
        assert {p.dtype for p in denoiser.parameters()} == {torch.float32}


def test_two_ranks_average_their_gradients(tmp_path: Path) -> None:
    """DDP's result is that of one process that sums the losses of both ranks' crops."""
    command = [sys.executable, "-m", "tests.training.runs", str(tmp_path), "1"]
    other = subprocess.Popen(command)
    first = runs.ranked(tmp_path, 0)
    assert other.wait(60) == 0
    second = torch.load(tmp_path / "1.pt")
    cut, denoiser = runs.parts()
    optimizer = torch.optim.Adam(denoiser.parameters(), 1e-2)
    for step in range(3):
        optimizer.zero_grad()
        for key in split_seed(3, 2):
            stream = torch.Generator().manual_seed(Noise((key,)).seeds(step)[0])
            crop, scale = cut.draw(8, stream), denoiser.sigma_data
            loss = denoising_loss(denoiser, crop.clean, sigma_data=scale, generator=stream)
            (loss / 2).backward()
        nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = 1e-2 * 0.5 * (1 + math.cos(math.pi * step / 3))
        optimizer.step()
    for name, value in denoiser.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, atol=1e-5, rtol=1e-4)


def test_wrong_options_are_named() -> None:
    network = SeriesNet()
    with pytest.raises(PgmdiffError, match="network with parameters, and at least one step"):
        fit([(4,)], network, torch.randn(5, 8), steps=0)
    for given in ({"batch": 8.0}, {"warmup": -1}):
        with pytest.raises(PgmdiffError, match="warmup in whole numbers, got"):
            fit([(4,)], network, torch.randn(5, 8), steps=1, **given)
    with pytest.raises(PgmdiffError, match="expected a positive sigma_data"):
        fit([(4,)], network, torch.zeros(5, 8), steps=1)
    data = 1e30 * torch.randn(5, 8)
    with pytest.raises(PgmdiffError, match="the loss is not finite before step 0"):
        fit([(4,)], network, data, steps=1, sigma_data=1e-30, generator=0)
    with pytest.raises(ShapeError, match="got position, which it was made without"):
        fit([(4,)], network, torch.randn(5, 8), steps=1, position=True)
    with pytest.raises(PgmdiffError, match="expected mean as float"):
        EDMDenoiser(network, 1.0, mean=torch.zeros(2, 1))


class OfElements(nn.Module):
    """A network for two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


def test_channels_of_other_units_are_told() -> None:
    stream = torch.Generator().manual_seed(0)
    data = torch.randn(50, 2, 12, generator=stream) * torch.tensor([50.0, 0.1])[:, None]

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv1d(2, 2, 1)

        def forward(self, x: Tensor, noise: Tensor) -> Tensor:
            out: Tensor = self.layer(x)
            return out

    with pytest.warns(UserWarning, match=r"fit: the channels have .* from 0\.\d+ to 5"):
        fit([(2, 4)], Network(), data, steps=1, generator=0)
    fit([(2, 4)], Network(), data / data.std(dim=(0, 2))[:, None], steps=1, generator=0)
    with pytest.warns(UserWarning, match=r"fit: the elements have .* from 0\.\d+ to [45]"):
        fit([(2,)], OfElements(), data[:, :, 0], steps=1, generator=0)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions take notes from Python 3.11 on")
def test_what_a_network_raises_comes_with_the_labels_that_it_was_given() -> None:
    class Moody(nn.Linear):
        def forward(self, x: Tensor, noise: Tensor, mood: Tensor) -> Tensor:
            return super().forward(torch.cat([x, mood], dim=1))

    with pytest.raises(RuntimeError, match="same number of dimensions") as raised:
        fit([(3,)], Moody(4, 3), torch.randn(9, 3), steps=1, batch=5, labels={"mood": [0] * 9})
    (note,) = raised.value.__notes__
    assert "on crops [5, 3], with mood [5] int64: labels [n, ...] arrive as [batch, ...]" in note
