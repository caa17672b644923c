"""Graphs: what describes a whole in terms of its pieces."""

from pgmdiff.graphs.counting import cluster_variation, junction_tree
from pgmdiff.graphs.cube import cubemap, nested_cubemap
from pgmdiff.graphs.exactness import Report, is_alpha_acyclic, is_berge_acyclic
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.families import chain, cycle, grid, star, tiles, torus, tree
from pgmdiff.graphs.regions import RegionGraph, RegionGroup
from pgmdiff.graphs.serialization import fingerprint, from_json, to_json

__all__ = [
    "FactorGraph",
    "RegionGraph",
    "RegionGroup",
    "Report",
    "chain",
    "cluster_variation",
    "cubemap",
    "cycle",
    "fingerprint",
    "from_json",
    "grid",
    "is_alpha_acyclic",
    "is_berge_acyclic",
    "junction_tree",
    "nested_cubemap",
    "star",
    "tiles",
    "to_json",
    "torus",
    "tree",
]
