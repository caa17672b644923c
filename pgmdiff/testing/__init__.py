"""Is my topology right? Laws for graphs of your own, and Hypothesis strategies of random ones.

    from pgmdiff.testing import assert_lawful
    assert_lawful(my_graph)

`law_reached` is the law of a sampler where the score is affine, without sampling error.
`pgmdiff.testing.strategies` needs Hypothesis and is imported only when asked for.
"""

from pgmdiff.testing.lawful import LAWS, Checked, LawBroken, assert_lawful
from pgmdiff.testing.linear import law_reached
from pgmdiff.testing.oracles import markov_gaussian, markov_mixture

__all__ = [
    "LAWS",
    "Checked",
    "LawBroken",
    "assert_lawful",
    "law_reached",
    "markov_gaussian",
    "markov_mixture",
]
