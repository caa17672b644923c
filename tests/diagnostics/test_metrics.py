import pytest
import torch

from pgmdiff import PgmdiffError, ShapeError
from pgmdiff.diagnostics.metrics import frechet_distance, seam_ratio, texture_features


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


def test_texture_features_tell_textures_apart() -> None:
    noise = torch.randn(200, 1, 16, 16, generator=generator())
    smooth = torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1) * 3
    features, others = texture_features(noise), texture_features(smooth)
    assert features.shape == (200, 63)
    assert features.isfinite().all()
    assert texture_features(torch.zeros(2, 1, 8, 8)).isfinite().all()
    floor = frechet_distance(features[:100], features[100:])
    assert frechet_distance(features[:100], others[:100]) > 10 * floor
    with pytest.raises(ShapeError, match="expected grey images"):
        texture_features(torch.zeros(2, 3, 16, 16))
