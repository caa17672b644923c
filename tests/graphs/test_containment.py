"""Containment of regions, against all pairs."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pgmdiff.graphs.containment import incidence, regions_around
from pgmdiff.testing.strategies import hypergraphs


@given(hypergraphs(), hypergraphs())
def test_regions_around_are_those_of_all_pairs(inner: list, outer: list) -> None:
    small, large = (list(map(frozenset, scopes)) for scopes in (inner, outer))
    expected = [[k for k, region in enumerate(large) if each <= region] for each in small]
    assert list(regions_around(small, large)) == expected


def test_a_member_that_all_regions_share_costs_nothing() -> None:
    """All pairs of these would be 4 × 10^8."""
    star = [frozenset({"hub", leaf}) for leaf in range(20_000)]
    assert list(regions_around(star, star)) == [[k] for k in range(len(star))]


@given(st.lists(st.lists(st.integers(0, 6), unique=True), max_size=5))
def test_incidence_is_membership(regions: list) -> None:
    matrix = incidence([np.array(region, np.int64) for region in regions], 7).toarray()
    assert matrix.tolist() == [[float(e in region) for e in range(7)] for region in regions]
