"""Scores and samplers of the form of k-diffusion's and EDM's, neither of which is a dependency.

`test_k_diffusions_own_samplers` runs where k-diffusion is installed.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pgmdiff import ScoreError, compose, gaussian
from pgmdiff.graphs import chain
from pgmdiff.integrations.k_diffusion import from_k_diffusion, to_k_diffusion
from pgmdiff.samplers import DPMSolver2M, Euler, Heun, Solver, karras, sample
from pgmdiff.scores.adapters import denoise, from_denoiser
from tests.helpers import ar1, relative

Q = ar1(3, 0.7)
U = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SIGMA = torch.tensor([0.01, 0.1, 1.0, 10.0, 100.0], dtype=torch.float64)
X = U * SIGMA[:, None]


class Denoiser(nn.Module):
    """It has the form of `k_diffusion.layers.Denoiser`, which preconditions an inner model."""

    def __init__(self, sigma_data: float = 0.7) -> None:
        super().__init__()
        self.sigma_data = sigma_data

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        total = sigma**2 + self.sigma_data**2
        return (
            self.sigma_data**2 / total,
            sigma * self.sigma_data / total.sqrt(),
            total.rsqrt(),
        )

    def inner_model(self, seen: Tensor, sigma: Tensor, **kwargs: Tensor) -> Tensor:
        c_skip, c_out, c_in = (c[:, None] for c in self.scalings(sigma))
        x = seen / c_in
        shift = kwargs.get("shift", 0.0)
        return (Q.denoise(x - shift, sigma) + shift - c_skip * x) / c_out

    def forward(self, input: Tensor, sigma: Tensor, **kwargs: Tensor) -> Tensor:  # noqa: A002
        c_skip, c_out, c_in = (c[:, None] for c in self.scalings(sigma))
        return self.inner_model(input * c_in, sigma, **kwargs) * c_out + input * c_skip


class EDMPrecond(nn.Module):
    """The form of EDM's networks: float32 inside and out, sigma with the axes of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(
        self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None, force_fp32: bool = False
    ) -> Tensor:
        x, sigma = x.to(torch.float32), sigma.to(torch.float32).reshape(-1, 1, 1, 1)
        shift = 0 if class_labels is None else class_labels.to(torch.float32)[:, :1, None, None]
        return shift + (x - shift) / (1 + sigma**2)


def test_denoisers_give_the_score() -> None:
    score = from_k_diffusion(Denoiser())
    torch.testing.assert_close(score(X, SIGMA), Q.score(X, SIGMA), rtol=1e-9, atol=1e-9)
    shift = torch.full((5, 3), 2.0, dtype=torch.float64)
    torch.testing.assert_close(score(X, SIGMA, shift=shift), Q.score(X - shift, SIGMA))


def test_edm_networks_compute_in_their_own_dtype() -> None:
    score = from_k_diffusion(EDMPrecond())
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    sigma = torch.tensor([0.5, 3.0], dtype=torch.float64)
    found = score.denoise(x, sigma, class_labels=labels)
    shift = labels[:, :1, None, None].double()
    expected = shift + (x - shift) / (1 + sigma[:, None, None, None] ** 2)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(ScoreError, match=r"network is on meta .* Move"):
        from_k_diffusion(EDMPrecond().to("meta"))(x, sigma)


def test_a_joint_goes_out_and_comes_back() -> None:
    graph = chain(3)
    joint = compose(graph, gaussian.node_scores(graph, Q))
    model = to_k_diffusion(joint)
    torch.testing.assert_close(model(X, SIGMA), joint.denoise(X, SIGMA), rtol=0, atol=0)
    back = denoise(from_k_diffusion(model), X, SIGMA)
    torch.testing.assert_close(back, joint.denoise(X, SIGMA), rtol=0, atol=0)


def to_d(x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
    return (x - denoised) / sigma[:, None]


def sample_euler(model: Callable, x: Tensor, sigmas: Tensor, extra_args: dict) -> Tensor:
    """A sampler of the form of k-diffusion's: sigmas are a tensor, sigma multiplies ones."""
    s_in = x.new_ones([x.shape[0]])
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * s_in, **extra_args)
        x = x + to_d(x, sigmas[i] * s_in, denoised) * (sigmas[i + 1] - sigmas[i])
    return x


def test_samplers_of_that_form_sample_the_joint() -> None:
    def shifted(x: Tensor, sigma: Tensor, shift: Tensor) -> Tensor:
        d = x.shape[1]
        return Q.marginal(torch.arange(d)).score(x - shift[:, None], sigma)

    single = {name: lambda x, s, shift: -(x - shift) / (1 + s**2) for name in ("x1",)}
    joint = compose(chain(3), {"f0": shifted, "f1": shifted, **single})
    sigmas, shift = karras(12, 0.01, 20.0), torch.linspace(-1, 1, 5).double()
    x = 20.0 * U
    tensor = torch.tensor(sigmas, dtype=torch.float64)
    theirs = sample_euler(to_k_diffusion(joint), x, tensor, {"shift": shift})
    ours = sample(lambda u, sigma: joint(u, sigma, shift=shift), sigmas, x=x, solver=Euler())
    torch.testing.assert_close(theirs, ours, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "solver"),
    [("sample_euler", Euler()), ("sample_heun", Heun()), ("sample_dpmpp_2m", DPMSolver2M())],
)
def test_k_diffusions_own_samplers(name: str, solver: Solver) -> None:
    sampling = pytest.importorskip("k_diffusion.sampling", reason="k-diffusion is not installed")
    joint = compose(chain(3), gaussian.node_scores(chain(3), Q))
    sigmas, x = karras(12, 0.01, 20.0), 20.0 * U
    tensor = torch.tensor(sigmas, dtype=torch.float64)
    theirs = getattr(sampling, name)(to_k_diffusion(joint), x, tensor, disable=True)
    torch.testing.assert_close(
        theirs, sample(joint, sigmas, x=x, solver=solver), rtol=1e-9, atol=1e-9
    )


class Preconditioned(nn.Module):
    """A denoiser of the form of k-diffusion's, around layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner_model = nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Linear(16, 3))
        for parameter in self.parameters():  # so that no error is one of rounded weights
            parameter.data = parameter.data.bfloat16().float()

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        s = sigma[:, None]
        seen = torch.cat([x / (1 + s**2).sqrt(), s.log() / 4], dim=1)
        return x / (1 + s**2) + self.inner_model(seen) * s / (1 + s**2).sqrt()


@pytest.mark.parametrize("sigma", [0.01, 0.1, 1.0])
def test_only_the_layers_of_a_network_in_half_precision_round(sigma: float) -> None:
    """Rounding x, and D next to x, errs in the score by |x| / (256 σ): a third at σ = 0.01."""
    level, x = torch.full((5,), sigma), U.float()
    exact = from_denoiser(Preconditioned())(x, level)
    model = Preconditioned().bfloat16()
    found = from_k_diffusion(model)(x, level)
    assert found.dtype == torch.float32
    assert relative(found, exact) < 0.02
    whole = from_denoiser(lambda x, s: model(x.bfloat16(), s.bfloat16()).to(x))(x, level)
    assert (relative(whole, exact) > 0.3) == (sigma == 0.01)
