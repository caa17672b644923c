"""The rules that are compared."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pgmdiff.rules import Average, Evidence, Marginal, Posterior, Rule

__all__ = ["RULES", "rule_of"]

RULES = ("average", "marginal", "posterior", "evidence")


def rule_of(name: str, covariances: Mapping[Any, Tensor]) -> Rule:
    """The rule of a name."""
    rules: dict[str, Rule] = {
        "average": Average(),
        "marginal": Marginal(),
        "posterior": Posterior(covariances),
        "evidence": Evidence(covariances),
    }
    return rules[name]
