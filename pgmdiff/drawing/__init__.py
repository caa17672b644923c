"""Drawings without a plotting library: where nodes and windows go, their colours, and plain SVG.

`layouts`, `scenes` and `windows` are geometry, `text` the colours and widths; `plotting` puts them
on paper, `svg` and `html` on a notebook's page, where a core install has no more.
"""
