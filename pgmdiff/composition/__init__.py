"""Composition: the scores of regions make the score of the whole."""

from pgmdiff.composition.composing import compose
from pgmdiff.composition.consistent import Consistent
from pgmdiff.composition.feynman_kac import FeynmanKac
from pgmdiff.composition.fields import Field, field
from pgmdiff.composition.joint import Joint
from pgmdiff.composition.nodewise import PerNode, per_node
from pgmdiff.composition.plan import RegionScores, Scores
from pgmdiff.composition.posterior import Posterior
from pgmdiff.composition.rules import Average, Marginal, Rule

__all__ = [
    "Average",
    "Consistent",
    "FeynmanKac",
    "Field",
    "Joint",
    "Marginal",
    "PerNode",
    "Posterior",
    "RegionScores",
    "Rule",
    "Scores",
    "compose",
    "field",
    "per_node",
]
