# %% [markdown]
# # The Bethe approximation of a score, seen on Gaussians
#
# A factor graph says which variables a piece sees. From the pieces' densities the Bethe
# approximation makes one of the whole, $p(u) = \prod_f q(u_f) \prod_x q(u_x)^{1 - d_x}$: factors
# count +1, a variable in $d$ factors counts $1 - d$, so that everything is counted once.

# %%
import torch

from pgmdiff import compose
from pgmdiff.gaussian import (
    Gaussian,
    bethe_entropy,
    composed_precision,
    kl_divergence,
    node_scores,
)
from pgmdiff.graphs import chain, tiles
from pgmdiff.samplers import Heun, karras, sample

n, rho = 20, 0.95
place = torch.arange(n)
covariance = rho ** (place[:, None] - place).abs().double()
truth = Gaussian(torch.zeros(n, dtype=torch.float64), covariance)

graph = chain(n)
print(graph.validate())

# %% [markdown]
# On clean data (σ = 0) the chain is a junction tree, and everything is exact: the composed
# precision is the true one, and so is the entropy.

# %%
clean_error = (composed_precision(graph, truth) - torch.linalg.inv(covariance)).abs().max()
print(f"largest error of the composed precision at σ = 0: {clean_error:.1e}")
print(f"entropy: {truth.entropy():.6f} nats; Bethe entropy: {bethe_entropy(graph, truth):.6f}")
assert clean_error < 1e-10

# %% [markdown]
# A diffusion model works at σ > 0. Noised variables of a Markov chain are not Markov any more, and
# the same rule becomes an approximation: best where there is little noise or a lot of it.

# %%
for sigma in (0.0, 0.1, 0.5, 1.0, 3.0, 10.0):
    true_precision = torch.linalg.inv(truth.noised(sigma).covariance)
    error = (composed_precision(graph, truth, sigma) - true_precision).abs().max()
    print(f"σ = {sigma:4}: relative error {error / true_precision.abs().max():.4f}")

# %% [markdown]
# So the sampler misses the joint, however many steps it takes; longer overlaps help. The solver is
# linear here: pushing the identity through it gives the covariance of its samples exactly.


# %%
def kl_per_variable(regions, levels: int) -> float:
    joint = compose(regions, node_scores(regions, truth))
    start = 80.0 * torch.eye(n, dtype=torch.float64)
    out = sample(joint, karras(levels, 0.002, 80.0), x=start, solver=Heun())
    return kl_divergence(Gaussian(truth.mean, out.T @ out), truth) / n


for name, regions in (("pairs", graph), ("windows of 8, stride 4", tiles((n,), 8, 4))):
    figures = ", ".join(f"{levels}: {kl_per_variable(regions, levels):.3f}" for levels in (18, 40))
    print(f"{name:24} nats per variable from the truth, by levels: {figures}")
assert kl_per_variable(graph, 40) > 0.6 > kl_per_variable(tiles((n,), 8, 4), 40)
