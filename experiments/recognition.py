"""A small network that recognises the label of a clip and embeds clips and labels in one space.

    loss = cross-entropy of softmax_k(-|e(x) - p_k|²) + |x - decoded(e(x))|² / numel

e is the embedding of a clip, p_k that of a label. The second term, which is optional, keeps in e
what all clips of a label do not have in common. Embeddings are for R-precision, the multimodal
distance, diversity and the Fréchet distance (Guo et al., "Generating diverse and natural 3D human
motions from text", 2022), with labels in place of texts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.clips import Clips

__all__ = ["Recogniser"]

NOISE = 0.1
"""Of clips in training, in units of the spread of channels."""


class Recogniser(nn.Module):
    """Embeds clips `[n, channels, length]`, and labels."""

    def __init__(
        self, channels: int, length: int, labels: int, *, width: int, size: int, decode: bool
    ) -> None:
        super().__init__()
        self.enter = nn.Sequential(
            nn.Conv1d(channels, width, 5, padding=2), nn.SiLU(),
            nn.Conv1d(width, width, 5, padding=2, stride=2), nn.SiLU(),
            nn.Conv1d(width, width, 3, padding=1), nn.SiLU(),
        )  # fmt: skip
        self.leave = nn.Linear(2 * width, size)
        self.labels = nn.Embedding(labels, size)
        self.decode = nn.Linear(size, channels * length) if decode else None

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.enter(x)
        pooled = torch.cat([hidden.mean(dim=2), hidden.amax(dim=2)], dim=1)
        embedded: Tensor = self.leave(pooled)
        return embedded

    def named(self, x: Tensor) -> Tensor:
        """The number of the nearest label, `[n]`."""
        return torch.cdist(self(x), self.labels.weight).argmin(dim=1)

    @classmethod
    def trained(
        cls,
        clips: Clips,
        length: int,
        *,
        steps: int,
        seed: int,
        width: int = 48,
        size: int = 24,
        decode: bool = True,
        sources: frozenset[int] | None = None,
    ) -> "Recogniser":
        """A network trained on crops of the clips, or of those of some recordings."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            sides = len(clips.mean), length, len(clips.names)
            network = cls(*sides, width=width, size=size, decode=decode)
            optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.01)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            for step in range(steps):
                x, labels = clips.crops(length, 64, seed * 1_000_003 + step, sources)
                embedded = network(x + NOISE * torch.randn_like(x))
                apart = torch.cdist(embedded, network.labels.weight) ** 2
                loss = F.cross_entropy(-apart, labels)
                if network.decode is not None:
                    loss = loss + F.mse_loss(network.decode(embedded), x.flatten(1))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return network.eval().requires_grad_(False)
