"""The corpora of the experiments: real crops, and the trained denoiser of each."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pgmdiff.models.gravel import gravel_denoiser, gravel_image
from pgmdiff.noise import Generator
from pgmdiff.samplers import karras
from pgmdiff.training import EDMDenoiser, random_crops

__all__ = ["CORPORA", "Corpus"]


@dataclass(frozen=True)
class Corpus:
    """Images to cut, and a model of their patches."""

    name: str
    title: str
    side: int
    states: Callable[[], list[Tensor]]
    shapes: dict[tuple[int, ...], float]

    def crops(self, shape: tuple[int, int], n: int, generator: Generator) -> Tensor:
        return random_crops(self.states()[0], shape, n, generator=generator)

    def denoiser(self) -> EDMDenoiser:
        return gravel_denoiser()

    def levels(self, steps: int) -> list[float]:
        return karras(steps, 0.01, 10.0)


CORPORA = {
    name: Corpus(name, "gravel", 16, lambda: [gravel_image()], {(1, 16, 16): 0.6, (1, 16, 8): 0.4})
    for name in ("landscape", "tissue")
}
