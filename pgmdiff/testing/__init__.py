"""Laws that every topology must satisfy, oracles to compare with, and random graphs.

    from pgmdiff.testing import assert_lawful
    assert_lawful(my_graph)

`pgmdiff.testing.strategies` needs Hypothesis and is imported only on demand.
"""

from pgmdiff.testing.lawful import LAWS, Checked, LawBroken, assert_lawful
from pgmdiff.testing.oracles import ModeChain, markov_gaussian, markov_mixture, two_mode_chain

__all__ = [
    "LAWS",
    "Checked",
    "LawBroken",
    "ModeChain",
    "assert_lawful",
    "markov_gaussian",
    "markov_mixture",
    "two_mode_chain",
]
