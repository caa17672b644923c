"""The site: `make docs` builds it into `docs/_build/html`, with no network."""

import sys
from importlib import metadata
from pathlib import Path

import tomllib

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "pgmdiff"
author = "The pgmdiff developers"
copyright = "The pgmdiff developers"
release = version = metadata.version("pgmdiff")
PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))[
    "project"
]
ADDRESS = PROJECT.get("urls", {}).get("Repository", "")
"""The project's one address; `hatch_build.py` makes the README's links absolute with it."""

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.autosummary",
    "signatures",
    "api_reference",
    "benchmark_pages",
    "bibliography",
    "docstrings",
    "figures",
    "house",
    "mathml",
]
exclude_patterns = ["_build"]
default_role = "code"
nitpicky = False

myst_enable_extensions = ["dollarmath", "deflist", "attrs_inline"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True  # what a cell prints stands in one box
myst_html_meta = {
    "description": "Compose diffusion models of pieces into one of wholes: images of any size and "
    "topology, graphs of variables, posteriors of many observations; and know what is exact."
}

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "cited"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Source", "notes"), ("Attributes", "params_style")]

html_theme = "furo"
html_title = "pgmdiff"
html_static_path = ["_static"]
html_css_files = ["custom.css", "landing.css"]
html_js_files = ["copy.js"]
html_favicon = "_static/favicon.svg"
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#1f6a9e",
        "color-brand-content": "#1f6a9e",
        "chart-filter": "none",
        "chart-blend": "normal",
        "card-filter": "none",
    },
    "dark_css_variables": {
        "color-brand-primary": "#7cc0ee",
        "color-brand-content": "#7cc0ee",
        "chart-filter": "invert(1) hue-rotate(180deg) brightness(1.1)",
        "chart-blend": "screen",
        "card-filter": "brightness(0.88)",
    },
    **(
        {"source_repository": ADDRESS, "source_branch": "main", "source_directory": "docs/"}
        if ADDRESS
        else {}
    ),
}
