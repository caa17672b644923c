import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pgmdiff import PgmdiffError, ShapeError
from pgmdiff.diagnostics import (
    autocorrelation,
    autocorrelation_distance,
    bootstrap,
    crop_features,
    diversity,
    energy_distance,
    frechet_distance,
    kernel_distance,
    manifold_precision,
    manifold_recall,
    mean_and_error,
    multimodal_distance,
    r_precision,
    seam_ratio,
    sliced_wasserstein,
    spectrum,
    spectrum_distance,
    texture_features,
    with_floor,
)
from tests.helpers import ar1


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def test_seam_ratio_sees_a_step_where_it_is() -> None:
    ramp = torch.arange(32.0).expand(4, 32).clone()
    assert seam_ratio(ramp, [8, 16, 24]) == pytest.approx(1.0)
    ramp[:, 16:] += 9
    assert seam_ratio(ramp, [16]) == pytest.approx(10.0)
    assert seam_ratio(ramp, [8, 16]) == pytest.approx(5.5)
    assert seam_ratio(ramp, [8]) < 1
    ring = torch.tensor([0.0, 1.0, 0.0, 5.0])
    assert seam_ratio(ring, [0], periodic=True) == pytest.approx(5 / (7 / 3))
    assert seam_ratio(ring, [0, 2]) == pytest.approx(1 / 3), "column 0 of an open strip is no seam"
    with pytest.raises(ShapeError, match="some seams"):
        seam_ratio(ring, [0])
    with pytest.raises(ShapeError, match="within 0 to 3"):
        seam_ratio(ring, [99])
    colour = normal(4, 3, 8, 5).cumsum(2)
    across = seam_ratio(colour.movedim(2, 3), [4])
    assert seam_ratio(colour, [4], axis=2) == seam_ratio(colour, [4], axis=-2) == across


def test_frechet_distance_of_gaussians() -> None:
    n = 100_000
    a = torch.randn(n, 3, generator=generator(), dtype=torch.float64)
    scale = torch.tensor([1.0, 2.0, 0.5])
    b = torch.randn(n, 3, generator=generator(1), dtype=torch.float64) * scale + 1
    assert frechet_distance(a, b) == pytest.approx(3 + 1 + 0.25, rel=0.02)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(PgmdiffError, match="expected finite features"):
            frechet_distance(a, torch.full_like(b, wrong))
    assert frechet_distance(a[:, :1], b[:, 1:2]) == pytest.approx(2, rel=0.03)
    with pytest.raises(ShapeError, match="expected features"):
        frechet_distance(a, b[:, :2])


@pytest.mark.parametrize("shape", [(20, 30), (10, 2, 30), (30, 30)])
def test_too_few_features_for_a_covariance_are_warned_of(shape: tuple[int, ...]) -> None:
    """Also states with channels, which look like crops of fewer features."""
    many = normal(200, *shape[1:], seed=1)
    for pair in ((normal(*shape), many), (many, normal(*shape))):
        with pytest.warns(UserWarning, match=r"0 features of 30 dimensions"):
            frechet_distance(*pair)
    assert frechet_distance(normal(31, 30), many.flatten(0, -2)) > 0


def test_texture_features_tell_textures_apart() -> None:
    noise = torch.randn(200, 1, 16, 16, generator=generator())
    smooth = torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1) * 3
    features, others = texture_features(noise), texture_features(smooth)
    assert features.shape == (200, 63)
    assert features.isfinite().all()
    assert texture_features(torch.zeros(2, 1, 8, 8)).isfinite().all()
    floor = frechet_distance(features[:100], features[100:])
    assert frechet_distance(features[:100], others[:100]) > 10 * floor


# ------------------------------------------------------------------------- features of crops


@pytest.mark.parametrize(
    ("shape", "n"),
    [((1, 16, 16), 63), ((2, 8, 9), 95), ((3, 8, 8), 127), ((5, 8, 8), 127), ((1, 40), 15)],
)
def test_texture_features_of_any_channels(shape: tuple[int, ...], n: int) -> None:
    images = normal(5, *shape)
    features = texture_features(images)
    assert features.shape == (5, n)
    assert features.isfinite().all()
    torch.testing.assert_close(features[2:3], texture_features(images[2:3]))
    narrow = texture_features(images.float()).double()
    torch.testing.assert_close(narrow, features, atol=1e-4, rtol=1e-4)
    with pytest.raises(ShapeError, match="expected images"):
        texture_features(images[..., :7])


def test_texture_features_tell_content_apart() -> None:
    """Textures and colours, with equal means and variances of the pixels."""
    n = 600

    def floors(a: Tensor, b: Tensor) -> float:
        assert a.std().item() == pytest.approx(b.std().item(), rel=0.02)
        one, other = texture_features(a), texture_features(b)
        found = [frechet_distance(x, one[n // 2 :], relative=True) for x in (other, one)]
        same = frechet_distance(one[: n // 2], one[n // 2 :], relative=True)
        assert found[1] < same, "it holds its own reference"
        return frechet_distance(other[: n // 2], one[n // 2 :], relative=True) / same

    noise = normal(n, 3, 16, 16)
    smooth = torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1) * 3
    assert floors(noise, smooth / smooth.std()) > 20
    grey = noise[:, :1]
    assert floors(grey, grey.sign() * grey.std()) > 2
    colour = noise[:, :1] + 0.5 * noise
    assert floors(noise, colour / colour.std()) > 20
    series = noise[..., 0]
    slow = series.cumsum(-1)
    assert floors(series, slow / slow.std()) > 20
    slope = torch.linspace(-1, 1, 16).double().expand(16, 16)
    assert floors(noise + 4 * slope, noise + 4 * slope.T) > 5
    assert floors(noise, normal(n, 3, 16, 16, seed=1)) == pytest.approx(1, abs=0.2)


def test_crop_features_are_of_crops() -> None:
    content = torch.arange(2 * 3 * 6 * 40.0).reshape(2, 3, 6, 40)
    seen = crop_features(content, (4, 8), 50, extractor=lambda x: x.flatten(1), generator=0)
    assert seen.shape == (2, 50, 3 * 4 * 8)
    crops = seen.reshape(2, 50, 3, 4, 8)
    for k in range(2):
        first = crops[k, :, 0, 0, 0].long() - k * 720
        top, left = first // 40, first % 40
        assert set(top.tolist()) == {0, 1, 2}
        assert len(set(left.tolist())) > 20
        assert (crops[k, :, 2, 3, 7].long() == k * 720 + 480 + (top + 3) * 40 + left + 7).all()
    assert crop_features(content[:, 0, 0], (40,), extractor=lambda x: x).shape == (2, 1, 40)
    with pytest.raises(ShapeError, match="expected a crop no larger than"):
        crop_features(content, (7, 8))


# ------------------------------------------------------------------------- distances of features


def test_crops_count_as_features_of_their_own() -> None:
    a, b = normal(60, 4, 3), 1 + normal(50, 4, 3, seed=1)
    flat = frechet_distance(a.flatten(0, 1), b.flatten(0, 1))
    assert frechet_distance(a, b) == pytest.approx(flat)
    assert manifold_precision(a, b) == manifold_precision(a.flatten(0, 1), b.flatten(0, 1))


def test_the_kernel_distance_is_unbiased() -> None:
    """Over all ways to part a set of features in two, its mean is exactly 0."""
    pooled = normal(6, 3)
    parts = torch.combinations(torch.arange(6), 3)
    found = []
    for part in parts:
        rest = torch.ones(6, dtype=torch.bool)
        rest[part] = False
        found.append(kernel_distance(pooled[part], pooled[rest]))
    assert abs(sum(found)) < 1e-10 * sum(map(abs, found))
    assert min(found) < 0 < max(found)


def test_the_kernel_distance_is_that_of_its_formula() -> None:
    a, b = normal(7, 2, 3), normal(5, 2, 3, seed=1) + 1
    pooled = torch.cat([a.flatten(0, 1), b.flatten(0, 1)])
    x, y = ((z - pooled.mean(0)) / pooled.std(0) for z in (a, b))

    def mean(one: Tensor, other: Tensor, same: bool) -> float:
        values = [
            (1 + one[i, k] @ other[j, m] / 3) ** 3
            for i in range(len(one)) for j in range(len(other)) if i != j or not same
            for k in range(2) for m in range(2)
        ]  # fmt: skip
        return torch.stack(values).mean().item()

    expected = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert kernel_distance(a, b) == pytest.approx(expected)


def test_precision_and_recall() -> None:
    real = normal(300, 2)
    assert manifold_precision(real, real) == manifold_recall(real, real) == 1
    far = real + 100
    assert manifold_precision(far, real) == manifold_recall(far, real) == 0
    both = torch.cat([real, far])
    assert manifold_precision(real, both) == 1
    assert manifold_recall(real, both) == 0.5
    few = normal(300, 2, seed=1) * 0.2
    assert manifold_precision(few, real) > 0.95
    assert manifold_recall(few, real) < 0.3
    on_a_line = torch.arange(5.0)[:, None]  # radii of k = 1 are 1
    assert manifold_precision(torch.tensor([[-0.9], [4.9], [5.1], [2.0]]), on_a_line, k=1) == 0.75
    with pytest.raises(ShapeError, match="expected k from 1 to 4"):
        manifold_precision(on_a_line, on_a_line, k=5)


def test_precision_counts_distances_that_equal_the_radius() -> None:
    """On a lattice, whose distances are known exactly; two equal units of it."""
    stream = generator()
    for _ in range(20):
        a, b = (torch.randint(12, (60, 2), generator=stream) for _ in range(2))
        a, b = (torch.cat([x, x.flip(1)]) for x in (a, b))
        within, across = ((x[:, None] - b).square().sum(dim=2) for x in (b, a))
        radii = within.sort(dim=1).values[:, 3]
        exact = (across <= radii).any(dim=1).double().mean().item()
        assert manifold_precision(a, b) == exact


def test_a_far_sample_spoils_no_distance_in_float32() -> None:
    a, b = normal(60, 3).float(), normal(60, 3, seed=1).float()
    a[0] = 1e6
    exact = energy_distance(a.double(), b.double())
    assert energy_distance(a, b) == pytest.approx(exact, rel=1e-6)


def test_diversity_and_distances_of_embeddings() -> None:
    x = normal(2000, 1)
    assert diversity(x) == pytest.approx(2 / math.sqrt(math.pi), rel=0.03)
    assert diversity(torch.tensor([[0.0], [1.0], [3.0]])) == pytest.approx(2)
    assert multimodal_distance(x, x + 3) == pytest.approx(3)
    pixels = (
        torch.tensor([[0, 255]], dtype=torch.uint8),
        torch.tensor([[1, 254]], dtype=torch.uint8),
    )
    assert multimodal_distance(*pixels) == pytest.approx(
        2**0.5
    )  # which in their dtype wraps around


def test_r_precision_is_the_mean_over_all_pools() -> None:
    samples, conditions = normal(7, 2), normal(7, 2, seed=1)
    distances = torch.cdist(samples, conditions)
    hits = []
    for i in range(7):
        others = torch.tensor([j for j in range(7) if j != i])
        for pool in torch.combinations(others, 3):
            hits.append(float((distances[i, pool] < distances[i, i]).sum() < 2))
    assert r_precision(samples, conditions, top=2, pool=4) == pytest.approx(sum(hits) / len(hits))
    assert r_precision(samples, samples, top=1, pool=7) == 1
    apart = [r_precision(normal(300, 2), normal(300, 2, seed=k)) for k in range(1, 9)]
    assert sum(apart) / 8 == pytest.approx(3 / 32, abs=0.03)
    assert r_precision(normal(64, 2), torch.zeros(64, 2)) == pytest.approx(3 / 32)
    alike = normal(2, 2)[torch.arange(300) % 2]
    assert r_precision(normal(300, 2, seed=1), alike) == pytest.approx(3 / 32, abs=0.02)
    assert r_precision(alike, alike, top=1) == pytest.approx(2 / 32, abs=0.005)  # of 150 alike
    with pytest.raises(ShapeError, match="expected pairs of embeddings"):
        r_precision(samples, conditions)


# ------------------------------------------------------------------------- curves


@pytest.mark.parametrize(
    ("metric", "error", "words"),
    [
        (lambda x: seam_ratio(x, [4]), PgmdiffError, "vary along axis -1, got one value"),
        (lambda x: autocorrelation(x, 2), PgmdiffError, "vary along axis -1, got one value"),
        (lambda x: spectrum_distance(x, 2 * x), PgmdiffError, "vary along axis -1, got one value"),
        (lambda x: autocorrelation_distance(normal(3, 9), x, 0), ShapeError, "at least 1, got 0"),
        (lambda x: spectrum(x[:, :3]), ShapeError, "at least 4 long on axis -1, got 3"),
    ],
)
def test_metrics_of_what_tells_nothing_are_refused(metric, error, words: str) -> None:
    with pytest.raises(error, match=words):
        metric(torch.full((3, 10), 0.1))


def test_autocorrelation_and_spectrum_of_an_ar1_series() -> None:
    rho, length = 0.8, 128
    x = ar1(length, rho).sample(4000, 0)
    torch.testing.assert_close(
        autocorrelation(x, 10), rho ** torch.arange(11).double(), atol=0.02, rtol=0
    )
    assert autocorrelation_distance(x, normal(900, length), 1) == pytest.approx(rho, abs=0.02)
    frequencies = 2 * math.pi * torch.arange(1, length // 2 + 1).double() / length
    density = (1 - rho**2) / (1 + rho**2 - 2 * rho * frequencies.cos())
    found = spectrum(x, 1000)
    assert len(found) == length // 2
    torch.testing.assert_close(found[4:], density[4:], rtol=0.15, atol=0)  # leaks from below
    torch.testing.assert_close(spectrum(normal(4000, length), 5), torch.ones(5).double(), rtol=0.1,
                               atol=0)  # fmt: skip
    assert spectrum_distance(x, 10 * x) == pytest.approx(20)
    assert spectrum_distance(x[:2000], x[2000:]) < 0.5
    with pytest.raises(ShapeError, match="of one length on axis -1, got 128 and 64"):
        spectrum_distance(x, x[:, :64])
    assert spectrum_distance(x[:, :, None], x[:, :, None].expand(-1, -1, 2), axis=1) < 1e-9


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_no_metric_is_nan_for_nan(wrong: float) -> None:
    good = normal(40, 16)
    bad = good.clone()
    bad[3, 5] = wrong
    metrics: list[Callable[[Tensor, Tensor], object]] = [
        energy_distance, sliced_wasserstein, frechet_distance, kernel_distance, manifold_precision,
        manifold_recall, multimodal_distance, r_precision, spectrum_distance,
        lambda a, b: autocorrelation_distance(a, b, 4),
        lambda a, b: (diversity(a), diversity(b)),
        lambda a, b: (seam_ratio(a, [8]), seam_ratio(b, [8])),
    ]  # fmt: skip
    for metric in metrics:
        for pair in ((good, bad), (bad, good)):
            with pytest.raises(PgmdiffError, match=r"expected finite .*, got NaN or infinity"):
                metric(*pair)


def test_curves_on_any_axis() -> None:
    x = normal(5, 3, 20, 4).cumsum(2)
    for curve in (lambda x, axis: autocorrelation(x, 6, axis=axis), lambda x, axis: spectrum(
        x, 4, axis=axis)):  # fmt: skip
        torch.testing.assert_close(curve(x, 2), curve(x.movedim(2, -1), -1))
        torch.testing.assert_close(curve(x, -2), curve(x + 7, 2))
    with pytest.raises(ShapeError, match="expected a lag below 20"):
        autocorrelation(x, 20, axis=2)


# ------------------------------------------------------------------------- intervals and floors


def test_intervals_cover_as_often_as_they_say() -> None:
    """The variance of half samples is that of the mean, and the interval Student's, nearly."""
    covered = 0
    for seed in range(200):
        x = normal(60, seed=seed).exp()  # skewed
        value, low, high = bootstrap(
            lambda x: x.mean().item(), x, generator=seed, level=0.8, resamples=60
        )
        assert value == x.mean()
        covered += low < math.exp(0.5) < high
    assert covered / 200 == pytest.approx(0.8, abs=0.1)
    x = normal(400)
    _, low, high = bootstrap(lambda x: x.mean().item(), x, generator=0, resamples=2000)
    error = mean_and_error(x.tolist())[1]
    assert high - low == pytest.approx(2 * 1.645 * error, rel=0.06)


def test_the_interval_of_a_seam_covers_the_truth() -> None:
    """Columns of independent noise; at the seam differences have the variance 2 + 1.6."""
    truth, covered = (3.6 / 2) ** 0.5, 0
    for seed in range(80):
        x = normal(40, 12, seed=seed)
        x[:, 6:] += 1.6**0.5 * normal(40, 1, seed=1000 + seed)
        value, low, high = bootstrap(
            lambda x: seam_ratio(x, [6]), x, generator=seed, level=0.8, resamples=40
        )
        assert value == seam_ratio(x, [6])
        covered += low < truth < high
    assert covered / 80 == pytest.approx(0.8, abs=0.1)


def test_pairs_are_drawn_together() -> None:
    x = normal(50)

    def gap(a: Tensor, b: Tensor) -> float:
        return (a - b).mean().item()

    assert bootstrap(gap, x, x + 2, paired=True)[1:] == pytest.approx((-2, -2))
    _, low, high = bootstrap(gap, x, x + 2, generator=0)
    assert high - low > 0.2
    with pytest.raises(ShapeError, match="equally many in pairs"):
        bootstrap(gap, x, x[:-1], paired=True)
    with pytest.raises(ShapeError, match="at least four samples"):
        bootstrap(gap, x, x[:3])


def test_the_floor_is_of_sets_of_equal_sizes() -> None:
    seen = []

    def metric(a: Tensor, b: Tensor) -> float:
        seen.append((len(a), len(b)))
        return frechet_distance(a, b)

    real = normal(400, 5)
    value, floor = with_floor(metric, normal(120, 5, seed=1), real, resamples=20, generator=0)
    assert set(seen) == {(120, 200), (60, 100)}
    assert floor.low < value.value < floor.high + 0.1, "samples of the same distribution"
    far, again = with_floor(frechet_distance, normal(300, 5) + 1, real, resamples=20, generator=0)
    assert far.low > 10 * again.high
    assert far == with_floor(
        frechet_distance, normal(300, 5) + 1, real, resamples=20, generator=0
    )[0]  # fmt: skip
    with pytest.raises(ShapeError, match="expected samples and real data of one shape"):
        with_floor(metric, normal(9, 2, 5), real)
    for n, n_real in ((9, 1), (9, 7), (3, 9), (1, 1)):
        with pytest.raises(
            ShapeError, match=rf"8 real ones, which are halved, got {n} and {n_real}"
        ):
            with_floor(metric, normal(n, 5), normal(n_real, 5), generator=0)
    assert with_floor(lambda a, b: 0.0, normal(4, 5), normal(8, 5), generator=0)[1].value == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.uint8])
def test_features_are_those_of_the_values_whatever_their_dtype(dtype: torch.dtype) -> None:
    images = (100 + 20 * normal(9, 1, 16, 16)).to(dtype)
    assert torch.equal(texture_features(images), texture_features(images.double()))
    assert seam_ratio(images, [8]) == seam_ratio(images.double(), [8])


@pytest.mark.parametrize("given", [{"level": 90}, {"level": -0.5}, {"resamples": 0}])
def test_intervals_that_mean_nothing_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(PgmdiffError, match="a level between 0 and 1, such as"):
        bootstrap(lambda x: x.mean().item(), normal(9), **given)
    with pytest.raises(ShapeError, match="1 <= top <= pool"):
        r_precision(normal(40, 3), normal(40, 3), top=0)
