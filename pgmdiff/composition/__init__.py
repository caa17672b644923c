"""Composition: the scores of regions make the score of the whole."""

from pgmdiff.composition.joint import Joint, compose
from pgmdiff.composition.plan import RegionScores, Scores
from pgmdiff.composition.rules import Average, Evidence, Marginal, Posterior, Rule

__all__ = [
    "Average",
    "Evidence",
    "Joint",
    "Marginal",
    "Posterior",
    "RegionScores",
    "Rule",
    "Scores",
    "compose",
]
