"""Values on one line, and tables as text and HTML."""

from fractions import Fraction
from functools import partial
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor, nn

from pgmdiff.text import Table, brief, count_text, counted, printable


class Network(nn.Module):
    """A model whose own repr has several lines."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_brief() -> None:
    class Plain:
        pass

    assert brief(torch.zeros(2, 3)) == "[2, 3] float32"
    assert brief(np.zeros(4)) == "[4] float64"
    assert brief(Network()) == "Network"
    assert brief(Plain()) == "Plain"
    assert brief(partial(torch.add, 1)).startswith("partial(")
    assert brief("x" * 10_000, 20) == "'" + "x" * 18 + "…"
    assert brief((torch.zeros(2),)) == "([2] float32,)"
    assert brief(list(range(10_000))) == "10000 values"
    assert brief({"a": torch.zeros(1)}) == "{'a': [1] float32}"
    itself: list = []
    itself.append(itself)
    assert len(brief(itself)) <= 80


def test_counts_have_signs() -> None:
    assert [count_text(c) for c in (1, 0, -2, Fraction(1, 3))] == ["+1", "0", "−2", "+1/3"]
    assert count_text(10**30) == "+" + str(10**30)
    assert [counted(n, "box", "boxes") for n in (0, 1, 2)] == ["0 boxes", "1 box", "2 boxes"]


def test_printable_text_is_one_line_of_xml() -> None:
    assert printable("a\nb\tc\x00\ud800") == "a b c��"


ROWS = [("a", "1.5", "yes"), ("long", "-12", "no")]
TABLE = Table("sizes <m>", ROWS, ("name", "x", "y"), ["n & m"])


def test_tables_align_words_left_and_numbers_right() -> None:
    assert str(TABLE).split("\n") == [
        "sizes <m>",
        "name    x  y",
        "a     1.5  yes",
        "long  -12  no",
        "n & m",
    ]
    assert str(Table("", [("a", "inf"), ("b", "1")])) == "a  inf\nb    1"


def test_tables_are_html_of_the_same_cells() -> None:
    page = ElementTree.fromstring(TABLE.html())
    assert ["".join(p.itertext()) for p in page.iter("p")] == ["sizes <m>", "n & m"]
    assert [cell.text for cell in page.iter("th")] == ["name", "x", "y"]
    assert [cell.text for cell in page.iter("td")] == ["a", "1.5", "yes", "long", "-12", "no"]
    sides = [str(cell.get("style"))[:16] for cell in page.iter("th")]
    assert sides == ["text-align:left;", "text-align:right", "text-align:left;"]
    assert not list(ElementTree.fromstring(Table("t", [("a", "1")]).html()).iter("th"))
