"""Posteriors of single observations, learnt by sbi and composed into that of five.

pip install sbi && python examples/with_sbi.py
"""

from functools import partial

import torch
from sbi.inference import NPSE

import pgmdiff
from pgmdiff.integrations.sbi import from_sbi, tall_data
from pgmdiff.samplers import DPMSolver2M, karras, sample

torch.manual_seed(0)
prior = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
theta = prior.sample((4000,))
data = theta + 0.5 * torch.randn(4000, 2)  # the simulator

trainer = NPSE(prior, sde_type="vp", show_progress_bars=False)
estimator = trainer.append_simulations(theta, data).train(max_num_epochs=60)
posterior = from_sbi(estimator.requires_grad_(False).eval())

observations = torch.tensor([0.7, -0.4]) + 0.5 * torch.randn(5, 2)
sigmas = karras(15, 0.02, 10.0)
covariances = [  # of the posteriors of one observation, from samples
    torch.cov(
        sample(
            partial(posterior, condition=y.expand(500, 2)),
            sigmas,
            shape=(500, 2),
            solver=DPMSolver2M(),
            generator=0,
        ).T
    )
    for y in observations
]
joint = tall_data(
    posterior,
    pgmdiff.gaussian.Gaussian(torch.zeros(2), torch.eye(2)).score,
    observations,
    shape=(2,),
    covariances=covariances,
    prior_covariance=torch.eye(2),
)
samples = sample(joint, sigmas, shape=(500, 2), solver=DPMSolver2M(), generator=0)
exact = observations.sum(dim=0) / 0.25 / (1 + 5 / 0.25)
print("mean", samples.mean(dim=0).tolist(), "exact", exact.tolist())
print("standard deviation", samples.std(dim=0).tolist(), "exact", (1 / 21) ** 0.5)
