r"""`assert_lawful`: checks all laws on one graph and explains the first that fails.

Laws are ordered from the most basic to the most numerical, so that the first to fail is the one to
fix. Numerical laws compare with dense oracles in float64. A graph of many elements is first reduced
to one element per *atom* (block that no region splits), which changes no counting number.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from pgmdiff.errors import GraphError
from pgmdiff.graphs.factor_graph import GraphLike, graph_of
from pgmdiff.noise import Generator, seed_of
from pgmdiff.testing import laws
from pgmdiff.testing.laws import LawBroken, NotApplicable, Subject
from pgmdiff.text import counted, described

__all__ = ["LAWS", "Checked", "LawBroken", "assert_lawful"]

Law = Callable[[Subject], None]

LAWS: dict[str, Law] = {law.__name__: law for law in laws.ALL}
"""Name to law, in the order in which they are checked."""


@dataclass(frozen=True)
class Checked:
    """What `assert_lawful` checked.

    Attributes:
        passed: names of the laws that hold.
        skipped: law to the reason why it does not apply, or could not be checked.
    """

    passed: tuple[str, ...]
    skipped: dict[str, str]

    def __repr__(self) -> str:
        holds = counted(len(self.passed), "law holds", "laws hold")
        return described(self, holds, f"{len(self.skipped)} skipped")

    def __str__(self) -> str:
        lines = [f"holds    {name}" for name in self.passed]
        return "\n".join(lines + [f"skipped  {name}: {why}" for name, why in self.skipped.items()])


@torch.inference_mode(False)
@torch.enable_grad()
def assert_lawful(
    graph: GraphLike,
    *,
    generator: Generator = None,
    only: Iterable[str] | None = None,
) -> Checked:
    """Checks a graph against every law that must hold for it.

    Laws on numbers are checked at random Gaussians and mixtures of Gaussians: a graph that breaks
    one of them passes with probability 0. Laws on structure are checked exhaustively.

    Args:
        graph: a graph of any kind; networkx's are converted.
        generator: the source of the random Gaussians, mixtures and relabellings, as for
            `sample`; give an integer to make a failure reproducible.
        only: names of the laws to check, from `LAWS`; all if None.

    Returns:
        The laws that hold, and those that do not apply or could not be checked (`print` it).

    Raises:
        LawBroken: an AssertionError: the first law that fails, where, and what was expected.
        GraphError: the graph is of no known kind, a law's name is unknown, or `only` is empty.

    Example:
        >>> from pgmdiff.graphs import RegionGraph
        >>> from pgmdiff.testing import assert_lawful
        >>> windows = {"a": [0, 1, 2], "b": [2, 3, 4]}
        >>> assert_lawful(RegionGraph.from_regions(windows, event_shape=(5,)))
        Traceback (most recent call last):
            ...
        pgmdiff.testing.laws.LawBroken: counts_sum_to_one: element 2 is in 'a' (+1), 'b' (+1): the \
counts sum to 2, expected 1.
    """
    seed = seed_of(generator, "assert_lawful")
    subject = Subject(graph_of(graph, "assert_lawful"), seed)
    passed, skipped = [], {}
    chosen = [only] if isinstance(only, str) else [*(LAWS if only is None else only)]
    if not chosen:
        raise GraphError("assert_lawful: expected a law to check, got only=[]. None means all.")
    for name in chosen:
        if name not in LAWS:
            raise GraphError(f"assert_lawful: no law is named {name!r}. See testing.LAWS.")
        try:
            LAWS[name](subject)
        except NotApplicable as reason:
            skipped[name] = str(reason)
        except LawBroken as broken:
            raise LawBroken(f"{name}: {broken}") from None
        else:
            passed.append(name)
    return Checked(tuple(passed), skipped)
