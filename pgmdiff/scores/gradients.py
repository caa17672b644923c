"""Gradients that are not there are an error where one is required; they would count as zero.

Autograd says nothing about a network under `torch.no_grad`, or one that detaches its input, as long
as anything else in a sum depends on it. Therefore what a network returned is looked at first.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.utils._pytree import tree_leaves

from pgmdiff.errors import ScoreError

__all__ = ["check_gradient", "gradient_required"]


def check_gradient(values: Tensor, x: Tensor, who: Callable[[], str]) -> None:
    """Raises where a gradient with respect to x is required and values have none.

    One is required where x requires it and autograd records. Values of parameters only require one,
    too: therefore x is sought in autograd's graph, of which there is none yet while torch compiles.

    Args:
        values: what was made of x.
        x: the input.
        who: returns the name of what made them, for the error.

    Raises:
        ScoreError: the values have no gradient; the message says what to remove, or to add.
    """
    if not (x.requires_grad and torch.is_grad_enabled()):
        return
    if torch.compiler.is_compiling() and values.requires_grad:
        return
    start = _node(x)
    left: list[Any] = [_node(values)] if values.requires_grad else []
    seen = {None}
    while left:
        node = left.pop()
        if node is start:
            return
        if node not in seen:
            seen.add(node)
            left.extend(before for before, _ in node.next_functions)
    raise ScoreError(
        f"{who()}: expected a result that autograd can differentiate by its input, because a "
        "gradient is required here, got one without a gradient. Remove torch.no_grad, "
        "torch.inference_mode, detach and NumPy inside it. If it truly does not depend on its "
        "input, let it add 0 * x; if no gradient is wanted, detach its input, or call it under "
        "torch.no_grad."
    )


def gradient_required(*given: Any) -> bool:
    """Whether autograd records, and any tensor in pytrees requires a gradient."""
    leaves = (leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor))
    return torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves)


def _node(tensor: Tensor) -> Any:
    """The node of a tensor in autograd's graph."""
    return tensor.grad_fn or get_gradient_edge(tensor).node
