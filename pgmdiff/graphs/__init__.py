"""Graphs, which describe a whole in terms of its pieces."""

from pgmdiff.graphs.acyclicity import is_alpha_acyclic, is_berge_acyclic
from pgmdiff.graphs.counting import cluster_variation, junction_tree
from pgmdiff.graphs.cube import cubemap, nested_cubemap
from pgmdiff.graphs.factor_graph import FactorGraph
from pgmdiff.graphs.families import (
    chain,
    cycle,
    grid,
    hidden_markov,
    markov_random_field,
    named_tree,
    repeated_observations,
    star,
    torus,
    tree,
)
from pgmdiff.graphs.groups import RegionGroup
from pgmdiff.graphs.pyramids import Pyramid, pyramid
from pgmdiff.graphs.regions import RegionGraph
from pgmdiff.graphs.report import Report
from pgmdiff.graphs.serialization import fingerprint, from_json, to_json
from pgmdiff.graphs.sharing import shared_conditions
from pgmdiff.graphs.windows import product, tiles, time_by_parts

__all__ = [
    "FactorGraph",
    "Pyramid",
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
    "hidden_markov",
    "is_alpha_acyclic",
    "is_berge_acyclic",
    "junction_tree",
    "markov_random_field",
    "named_tree",
    "nested_cubemap",
    "product",
    "pyramid",
    "repeated_observations",
    "shared_conditions",
    "star",
    "tiles",
    "time_by_parts",
    "to_json",
    "torus",
    "tree",
]
