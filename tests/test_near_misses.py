"""Wrong arguments over the whole public surface are refused in words."""

import inspect

from torch import nn

from tests.near_misses import classified, measured, recorded, summary


def test_wrong_arguments_are_refused_in_words() -> None:
    """A thousand near misses; `make fuzz` tries twenty thousand."""
    found = measured(1000, seed=1, longest=0.02, quick=True)
    result = summary(found)
    assert result["calls"] == 1000
    assert result["functions"] > 240
    assert result["named"] > 500
    assert result["share"] >= 0.99, [each for each in found if each.outcome in ("raw", "slow")]


def test_a_class_in_place_of_its_instance_is_refused() -> None:
    """Many could be called or have the attributes that are looked for, and failed much later."""
    refused = 0
    for call in recorded(quick=True):
        if not (inspect.isfunction(call.function) or inspect.isclass(call.function)):
            continue
        for name, value in call.arguments.items():
            if type(value).__module__.startswith("pgmdiff.") or isinstance(value, nn.Module):
                outcome, text = classified(lambda c=call, k=name, v=value: c(**{k: type(v)}))
                assert outcome == "named", (call.name, name, text)
                refused += "got the class itself" in text
    assert refused > 100
