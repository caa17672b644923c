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

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map, tree_map_only, tree_structure

from pgmdiff.errors import ScoreError, ShapeError
from pgmdiff.linalg import beside, null_like, widest
from pgmdiff.scores.adapters import Score, Wrapped, has_memory, remembering
from pgmdiff.scores.walls import called, copied, on_copies
from pgmdiff.text import brief, described

__all__ = ["guided", "interpolated", "scheduled", "slerp"]

PARALLEL = 1e-4
"""The sine of the angle below which vectors are interpolated on a line."""


@dataclass(frozen=True, eq=False)
class Guided(Wrapped):
    """A score with classifier-free guidance; see `guided`.

    In a run, the evaluation of the null condition has a memory of its own, that of the score
    `other`; `memory` holds the rows of both, one after the other.
    """

    null: Mapping[str, Any]
    guidance: float = 1.0
    other: Any = None
    _nulls: dict[torch.device, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.other is None and has_memory(self.score):
            object.__setattr__(self, "other", remembering(self.score)())

    def around(self, score: Score) -> "Guided":
        return replace(self, score=score, other=None)

    @property
    def _for_null(self) -> Any:
        return self.score if self.other is None else self.other

    @property
    def remembering(self) -> Callable[..., "Guided"]:
        starts = remembering(self.score), remembering(self._for_null)

        def begin(memory: Mapping[str, Tensor] | None = None) -> "Guided":
            parts = [{n: t.tensor_split(2)[k] for n, t in (memory or {}).items()} for k in (0, 1)]
            score, other = (start(part) for start, part in zip(starts, parts, strict=True))
            return replace(self, score=score, other=other)

        return begin

    @property
    def memory(self) -> dict[str, Tensor]:
        mine: Any = self.score
        return {n: torch.cat([t, self.other.memory[n]]) for n, t in mine.memory.items()}

    @property
    def hold(self) -> Callable[[], None]:
        return self._both("hold")

    @property
    def commit(self) -> Callable[[], None]:
        return self._both("commit")

    def _both(self, name: str) -> Callable[[], None]:
        calls = getattr(self.score, name), getattr(self.other, name)

        def call() -> None:
            for each in calls:
                each()

        return call

    def __repr__(self) -> str:
        conditions = f"null={sorted(self.null)}"
        return described(self, brief(self.score), conditions, f"guidance={self.guidance:g}")

    def __call__(
        self,
        x: Tensor,
        sigma: Tensor,
        guidance: Tensor | float | None = None,
        null: Mapping[str, Any] | None = None,
        **condition: Any,
    ) -> Tensor:
        empty = _emptied(_emptied(condition, self._null_on(x.device), False), null or {}, True)
        w: Any = self.guidance if guidance is None else guidance
        if not isinstance(w, int | float):
            w = torch.as_tensor(w).to(x)
            if w.shape not in ((), (1,), x.shape[:1]):
                raise ShapeError(
                    f"guided: expected guidance as one number or one for each of {len(x)} rows, "
                    f"got {tuple(w.shape)}."
                )
            w = beside(w.expand(len(x)), x)
        conditional = called(self.score, x, sigma, **condition)
        if self.other is None and isinstance(w, int | float) and w == 1:
            return conditional
        unconditional = called(self._for_null, x, sigma, **empty)
        value: Tensor = unconditional + w * (conditional - unconditional)
        return value

    def _null_on(self, device: torch.device) -> Any:
        """The null condition on a device, where it is kept: every copy there is waited for."""
        if device not in self._nulls:
            self._nulls[device] = tree_map_only(torch.Tensor, lambda t: t.to(device), self.null)
        return self._nulls[device]


def guided(score: Score, null: Mapping[str, Any], *, guidance: float = 1.0) -> Guided:
    """Classifier-free guidance as a score with two more conditions.

    These are `guidance`, w as one number or `[batch]`, and `null`, the empty conditions of rows, by
    keyword tensors `[batch, ...]`: per node, a scale and a negative prompt. Each of the two
    evaluations is one call with the given batch. If w is the number 1, only the first is made,
    but for runs with memory, where either leaves what its next call reads.

    Args:
        score: the score, which accepts the keywords of `null`.
        null: the empty condition, by keyword: a tensor without a batch axis (for fields one that
            broadcasts, such as 0.0), a pytree of them, or another value. What it does not name, in
            a mapping inside it, too, is the same in both evaluations. Around a joint, the null of a
            field, or of a `per_node` condition, may be one, too. A network must have been trained
            with it (`null_condition=` of `training.fit`); one that was not returns an arbitrary
            score there, and no error.
        guidance: w where the caller gives none.

    Raises:
        ScoreError: a keyword of `null` is not given, or is built in another way.
        ShapeError: a null condition does not broadcast to the condition, or does not fit its dtype.

    Example:
        Two nodes share a model; the first follows its condition more closely, the second avoids
        what it should not show::

            compose(graph, guided(network_score, {"text": empty}),
                    conditions={"f0": {"text": sea, "guidance": torch.tensor(7.0)},
                                "f1": {"text": sky, "guidance": torch.tensor(2.0),
                                       "null": {"text": clouds}}},
                    null_condition={"text": empty})
    """
    return Guided(score, copied(dict(null)), guidance)


def _emptied(value: Any, null: Any, per_row: bool, word: str = "") -> Any:
    """A condition with what its null names replaced by it: by one null, or row by row."""
    if isinstance(value, Mapping) and isinstance(null, Mapping):
        if not null.keys() <= value.keys():
            raise ScoreError(
                f"guided: expected the conditions {sorted(null)}, got {sorted(value)}. Give every "
                "node those that null= names; others are the same with and without guidance."
            )
        return {**value, **{k: _emptied(value[k], null[k], per_row, k) for k in null}}
    if tree_structure(value) != tree_structure(null):
        if isinstance(null, Tensor | int | float) and not isinstance(value, Mapping | list | tuple):
            return tree_map(lambda one: _expanded(one, null, per_row), value)  # of a field
        raise ScoreError(
            f"guided: the null of {word!r} must be built as the condition, {brief(value)}; got "
            f"{brief(null)}. Give a tensor for a tensor, and a mapping for a mapping."
        )
    return tree_map(lambda one, empty: _expanded(one, empty, per_row), value, null)


def _expanded(value: Any, null: Any, per_row: bool) -> Any:
    """The null of a tensor `[batch, ...]`, in its shape."""
    if not isinstance(value, Tensor):
        if value != null:
            raise ScoreError(
                f"guided: a condition that differs from its null must be a tensor, got {value!r} "
                f"and {null!r}. Convert both to tensors."
            )
        return value
    empty = null_like("guided", "the null condition", null, value)
    empty = empty if per_row and empty.ndim else empty[None]
    try:
        ones = [1] * (value.ndim - empty.ndim)
        return empty.reshape(len(empty), *ones, *empty.shape[1:]).expand_as(value)
    except RuntimeError:
        shape, got = (tuple(t.shape[0 if per_row else 1 :]) for t in (value, empty))
        rows = "one for each row" if per_row else "without a batch axis"
        raise ShapeError(
            f"guided: expected the null condition as {shape}, {rows}, or one that broadcasts to "
            f"it, got {got}."
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
            `{"guidance": lambda w, s: torch.where((s > 0.3) & (s < 5), w, 1.0)}`. Where such a
            function returns the number 1, `guided` saves an evaluation.

    Raises:
        ScoreError: a scheduled condition is not given.
    """
    return Scheduled(score, dict(schedules))


def slerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """Spherical interpolation along the last axis; linear where a and b are (anti)parallel.

    Args:
        a, b: the vectors, `[..., d]`.
        t: the place between them from 0 (a) to 1 (b), broadcastable to `[...]`.

    The weights are computed in float64, since float32 knows no digit of θ near the opposite
    direction.

    Raises:
        ShapeError: the shapes differ, or a dtype is not floating point.
    """
    if a.shape != b.shape or not (a.is_floating_point() and b.is_floating_point()):
        raise ShapeError(
            "slerp: expected floating-point embeddings of one shape, got "
            f"{tuple(a.shape)} of {a.dtype} and {tuple(b.shape)} of {b.dtype}. Convert them first."
        )
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = (each.to(widest(each.device)) for each in (a, b))
    t = torch.as_tensor(t, dtype=a.dtype, device=a.device)[..., None]
    lengths = a.norm(dim=-1, keepdim=True) * b.norm(dim=-1, keepdim=True)
    cosine = (a * b).sum(dim=-1, keepdim=True) / lengths.clamp(min=torch.finfo(a.dtype).tiny)
    cosine = cosine.clamp(-1, 1)
    straight = cosine.detach().arccos().sin() < PARALLEL
    angle = cosine.where(~straight, 0).arccos()  # arccos has an infinite slope at 1
    sine = angle.sin()
    left = torch.where(straight, 1 - t, ((1 - t) * angle).sin() / sine)
    right = torch.where(straight, t, (t * angle).sin() / sine)
    return (left * a + right * b).to(dtype)


def interpolated(
    names: Iterable[Hashable], key: str, a: Tensor, b: Tensor
) -> dict[Hashable, dict[str, Tensor]]:
    """Conditions for `compose(conditions=)` that pass from a, at the first node, to b, at the last.

    Args:
        names: the names of at least two nodes, in order.
        key: the keyword of the condition.
        a, b: the embeddings, `[..., d]`.

    Raises:
        ShapeError: there are fewer than two nodes, a name is given twice, or the shapes differ.
    """
    names = list(names)
    if len(names) < 2:
        raise ShapeError(f"interpolated: expected at least two nodes, got {names}. Add one.")
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise ShapeError(
            f"interpolated: expected different nodes, got {twice[0]!r} twice. A node has one "
            "condition: name each once."
        )
    last = len(names) - 1
    return {name: {key: slerp(a, b, place / last)} for place, name in enumerate(names)}
