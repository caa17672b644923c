"""Wrong arguments over the whole public surface are refused in words."""

from tests.near_misses import measured, summary


def test_wrong_arguments_are_refused_in_words() -> None:
    """A thousand near misses; `make fuzz` tries twenty thousand."""
    found = measured(1000, seed=1, longest=0.02, quick=True)
    result = summary(found)
    assert result["calls"] == 1000
    assert result["functions"] > 240
    assert result["named"] > 500
    assert result["share"] >= 0.99, [each for each in found if each.outcome in ("raw", "slow")]
