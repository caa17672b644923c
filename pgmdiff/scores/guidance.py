r"""Conditions that vary from node to node and with σ, and guidance towards them.

Classifier-free guidance with a scale w per node,

    s_w(x, σ | c) = s(x, σ | ∅) + w (s(x, σ | c) - s(x, σ | ∅)),

(Ho, Salimans, "Classifier-free diffusion guidance", 2022) is not the score of a noised
distribution unless w is 0 or 1: composing it is a heuristic, as guidance itself is. Conditions of
nodes are given to `compose(conditions=)`; overlaps have none of their own and receive its
`null_condition=`. Along a chain two embeddings are interpolated on the sphere (Zhang et al.,
"DiffCollage", 2023, Fig. 6):

    slerp(a, b, t) = [sin((1 - t) θ) a + sin(t θ) b] / sin θ,      θ the angle between a and b
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map, tree_structure

from pgmdiff.errors import ScoreError, ShapeError
from pgmdiff.scores.adapters import Score, Wrapped, beside
from pgmdiff.scores.walls import called, copied, on_copies
from pgmdiff.text import brief, described

__all__ = ["guided", "interpolated", "scheduled", "slerp"]

PARALLEL = 1e-4
"""The sine of the angle below which vectors are interpolated on a line."""


@dataclass(frozen=True, eq=False)
class Guided(Wrapped):
    """A score with classifier-free guidance; see `guided`."""

    null: Mapping[str, Any]
    guidance: float = 1.0

    def __repr__(self) -> str:
        conditions = f"null={sorted(self.null)}"
        return described(self, brief(self.score), conditions, f"guidance={self.guidance:g}")

    def __call__(
        self, x: Tensor, sigma: Tensor, guidance: Tensor | float | None = None, **condition: Any
    ) -> Tensor:
        if condition.keys() != self.null.keys():
            raise ScoreError(
                f"guided: expected the conditions {sorted(self.null)}, got {sorted(condition)}. "
                "Give every node all of them, and null= the same keywords."
            )
        for key, value in condition.items():
            if tree_structure(value) != tree_structure(self.null[key]):
                raise ScoreError(
                    f"guided: the null of {key!r} must be built as the condition, {brief(value)}, "
                    f"a field if it is one; got {brief(self.null[key])}."
                )
        guidance = self.guidance if guidance is None else guidance
        w = torch.as_tensor(guidance, dtype=x.dtype, device=x.device).expand(len(x))
        if (w == 1).all() and not hasattr(self.score, "memory"):  # a branch keeps its memory
            return called(self.score, x, sigma, **condition)
        stacked = {key: tree_map(_with_null, v, self.null[key]) for key, v in condition.items()}
        values = called(self.score, torch.cat([x, x]), torch.cat([sigma, sigma]), **stacked)
        conditional, unconditional = values.chunk(2)
        return unconditional + beside(w, x) * (conditional - unconditional)


def guided(score: Score, null: Mapping[str, Any], *, guidance: float = 1.0) -> Guided:
    """Classifier-free guidance as a score with one more condition, `guidance`: w, `[batch]`.

    Both evaluations are made in one call with twice the batch. If all w are 1, only the conditional
    one is made.

    Args:
        score: the score, which accepts the keywords of `null`.
        null: the empty condition, by keyword: a tensor without a batch axis (for crops of fields
            one that broadcasts, such as 0.0), a pytree of them, or another value. Around a joint,
            the null of a field is a field.
        guidance: w where the caller gives none.

    Raises:
        ScoreError: the keywords given differ from those of `null`.

    Example:
        Two nodes share a model; the first follows its condition more closely::

            compose(graph, guided(network_score, {"text": empty}),
                    conditions={"f0": {"text": sea, "guidance": torch.tensor(7.0)},
                                "f1": {"text": sky, "guidance": torch.tensor(2.0)}},
                    null_condition={"text": empty})
    """
    return Guided(score, copied(dict(null)), guidance)


def _with_null(value: Any, null: Any) -> Any:
    """The rows of a condition, followed by as many empty ones."""
    if not isinstance(value, Tensor):
        if value != null:
            raise ScoreError(
                f"guided: a condition that differs from its null must be a tensor, got {value!r} "
                f"and {null!r}. Convert both to tensors."
            )
        return value
    empty = torch.as_tensor(null).to(value)
    try:
        return torch.cat([value, empty.expand(value.shape[1:]).expand_as(value)])
    except RuntimeError:
        raise ShapeError(
            f"guided: expected the null condition as {tuple(value.shape[1:])}, without a batch "
            f"axis, or one that broadcasts to it, got {tuple(empty.shape)}."
        ) from None


@dataclass(frozen=True, eq=False)
class Scheduled(Wrapped):
    """A score whose conditions change with σ; see `scheduled`."""

    schedules: Mapping[str, Callable[[Any, Tensor], Any]]

    def __repr__(self) -> str:
        return described(self, brief(self.score), f"schedules={sorted(self.schedules)}")

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        for key in self.schedules:
            if key not in condition:
                raise ScoreError(
                    f"scheduled: expected the condition {key!r}, got {sorted(condition)}. Give it "
                    "to compose(conditions=), or when the joint is called."
                )
        changed = {k: on_copies(f, condition[k], sigma) for k, f in self.schedules.items()}
        return called(self.score, x, sigma, **{**condition, **changed})


def scheduled(score: Score, schedules: Mapping[str, Callable[[Any, Tensor], Any]]) -> Scheduled:
    """A score whose conditions change with σ.

    Args:
        score: the score, which receives the changed conditions.
        schedules: by keyword, a function of the condition given, `[batch, ...]`, and σ `[batch]`
            that returns the condition for the score. Guidance within an interval of noise levels
            (Kynkäänniemi et al., "Applying guidance in a limited interval improves sample and
            distribution quality in diffusion models", 2024) is
            `{"guidance": lambda w, s: torch.where((s > 0.3) & (s < 5), w, 1.0)}`.

    Raises:
        ScoreError: a scheduled condition is not given.
    """
    return Scheduled(score, dict(schedules))


def slerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """Spherical interpolation along the last axis; linear where a and b are (anti)parallel.

    Args:
        a, b: the vectors, `[..., d]`.
        t: the place between them from 0 (a) to 1 (b), broadcastable to `[...]`.

    Raises:
        ShapeError: the shapes differ, or a dtype is not floating point.
    """
    if a.shape != b.shape or not (a.is_floating_point() and b.is_floating_point()):
        raise ShapeError(
            "slerp: expected floating-point embeddings of one shape, got "
            f"{tuple(a.shape)} of {a.dtype} and {tuple(b.shape)} of {b.dtype}. Convert them first."
        )
    t = torch.as_tensor(t, dtype=a.dtype, device=a.device)[..., None]
    lengths = a.norm(dim=-1, keepdim=True) * b.norm(dim=-1, keepdim=True)
    cosine = (a * b).sum(dim=-1, keepdim=True) / lengths.clamp(min=torch.finfo(a.dtype).tiny)
    cosine = cosine.clamp(-1, 1)
    straight = cosine.detach().arccos().sin() < PARALLEL
    angle = cosine.where(~straight, 0).arccos()  # arccos has an infinite slope at 1
    sine = angle.sin()
    left = torch.where(straight, 1 - t, ((1 - t) * angle).sin() / sine)
    right = torch.where(straight, t, (t * angle).sin() / sine)
    return left * a + right * b


def interpolated(
    names: Iterable[Hashable], key: str, a: Tensor, b: Tensor
) -> dict[Hashable, dict[str, Tensor]]:
    """Conditions for `compose(conditions=)` that pass from a, at the first node, to b, at the last.

    Args:
        names: the names of at least two nodes, in order.
        key: the keyword of the condition.
        a, b: the embeddings, `[..., d]`.

    Raises:
        ShapeError: there are fewer than two nodes, or the shapes differ.
    """
    names = list(names)
    if len(names) < 2:
        raise ShapeError(f"interpolated: expected at least two nodes, got {names}. Add one.")
    last = len(names) - 1
    return {name: {key: slerp(a, b, place / last)} for place, name in enumerate(names)}
