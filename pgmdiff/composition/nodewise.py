"""Conditions of nodes that differ between samples, given when a joint is called."""

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from pgmdiff.errors import GraphError, ShapeError
from pgmdiff.graphs.factor_graph import GraphLike, graph_of
from pgmdiff.graphs.names import check_known, check_names
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.graphs.sharing import pieces_around
from pgmdiff.linalg import null_like
from pgmdiff.text import array, brief, counted, described

__all__ = ["PerNode", "per_node"]


@dataclass(frozen=True, eq=False)
class PerNode:
    """A condition of nodes that differs between samples, made by `per_node`.

    Attributes:
        nodes: the names of the nodes.
        values: `[batch, nodes, ...]`.
    """

    nodes: tuple[Hashable, ...]
    values: Tensor

    def __repr__(self) -> str:
        return described(self, counted(len(self.nodes), "node"), array(self.values))

    def check(self, graph: RegionGraph) -> None:
        """Raises `GraphError` for a node that is no region of the graph."""
        what = "Joint: a per_node condition is given for"
        remedy = "Use the name of a region (`graph.regions.names`)."
        check_known(what, self.nodes, set(graph.names), "region", remedy)

    def shared(self, graph: GraphLike, null: Tensor | float) -> "PerNode":
        """The same with the regions whose pieces around them have one value, which they get.

        What is shared is counted once, sample by sample; see `graphs.shared_conditions`. Regions
        whose pieces differ, or are not all among the nodes, get the null value; nodes keep their
        own. The result has all regions of the graph.

        Args:
            graph: the graph, whose regions the nodes are.
            null: the value of the empty condition, a number or `[...]`.

        Raises:
            GraphError: a node is no region of the graph.
            ShapeError: the null value has another shape than that of a node, or the values' dtype
                cannot hold it.

        Example:
            >>> import torch
            >>> from pgmdiff import per_node, tiles
            >>> strip = tiles((16,), window=8, overlap=4)
            >>> told = per_node(strip.pieces, torch.tensor([[0, 0, 1], [1, 1, 1]]))
            >>> more = told.shared(strip, null=2)
            >>> more.nodes[3:], more.values[:, 3:]
            (('[4:8]', '[8:12]'), tensor([[0, 2],
                    [1, 1]]))
        """
        regions = graph_of(graph, "per_node").regions
        self.check(regions)
        empty = null_like("per_node", "the null value", null, self.values)
        shape = self.values.shape[2:]
        if empty.shape not in (torch.Size(), shape):
            raise ShapeError(
                f"per_node: expected the null value as a number or {tuple(shape)}, as one node "
                f"has it, got {tuple(empty.shape)}. Give it without the axes of batch and nodes."
            )
        own = {name: place for place, name in enumerate(self.nodes)}
        places = [own.get(name, -1) for name in regions.pieces]
        kinds = defaultdict[int, list[tuple[Hashable, list[int]]]](list)
        for name, found in pieces_around(regions, own):
            kinds[len(found)].append((name, [places[place] for place in found]))
        names, values = list(self.nodes), [self.values]
        for members in kinds.values():
            index = torch.tensor([found for _, found in members], device=self.values.device)
            around = self.values[:, index]  # [batch, regions, pieces, ...]
            alike = (around == around[:, :, :1]).flatten(2).all(2) & (index >= 0).all(1)
            alike = alike.reshape(*alike.shape, *[1] * len(shape))
            names += [name for name, _ in members]
            values.append(torch.where(alike, around[:, :, 0], empty))
        return PerNode(tuple(names), torch.cat(values, dim=1))


register_pytree_node(
    PerNode, lambda p: ([p.values], p.nodes), lambda leaves, nodes: PerNode(nodes, *leaves)
)


def per_node(nodes: Iterable[Hashable], values: Tensor) -> PerNode:
    """A condition of nodes that differs between samples: labels `[batch, windows]`, for example.

    Give it as a keyword of the joint's call: `joint(u, sigma, label=per_node(names, labels))`, or
    `sample(functools.partial(joint, label=...), ...)`. In sample b the model of node `nodes[k]`
    receives `values[b, k]`, whatever the graph's conditions and the null condition say of this
    keyword. Other nodes receive what these give them, or nothing. Gradients reach the values.

    Args:
        nodes: the names of nodes, each once.
        values: `[batch, nodes, ...]`, where batch is that of the call.

    Raises:
        GraphError: there is no name, or one is given twice. One that the graph does not have is an
            error of the call, as is a node without a value which is evaluated together with others.
        ShapeError: values are no tensor, or do not fit the names. Another batch is an error of
            the call.

    Example:
        >>> import torch
        >>> from pgmdiff import compose, per_node, tiles
        >>> strip = tiles((12,), window=8, overlap=4)
        >>> def score(x, sigma, label):  # the network, which sees label [rows]
        ...     return (label[:, None] - x) / (1 + sigma[:, None] ** 2)
        >>> joint = compose(strip, score, null_condition={"label": torch.tensor(0)})
        >>> labels = per_node(strip.pieces, torch.tensor([[1, 2], [3, 4]]))  # of two samples
        >>> joint(torch.zeros(2, 12), 1.0, label=labels)[:, ::4]
        tensor([[0.5000, 1.5000, 1.0000],
                [1.5000, 3.5000, 2.0000]])
    """
    names = tuple(nodes)
    check_names("per_node", names)
    if not names:
        raise GraphError("per_node: expected at least one node, got none. Name those of the graph.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise GraphError(f"per_node: the node {twice!r} is named twice. Give it one value.")
    if not isinstance(values, Tensor) or tuple(values.shape[1:2]) != (len(names),):
        raise ShapeError(
            f"per_node: expected a tensor [batch, {len(names)}, ...] for as many nodes, got "
            f"{type(values).__name__} {brief(values)}. torch.stack(..., dim=1) joins tensors "
            "[batch, ...] of nodes."
        )
    return PerNode(names, values)
