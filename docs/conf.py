"""The site: `make docs` builds it into `docs/_build/html`, with no network."""

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "pgmdiff"
author = "The pgmdiff developers"
copyright = "The pgmdiff developers"
release = version = metadata.version("pgmdiff")

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
    "house",
    "mathml",
]
exclude_patterns = ["_build"]
default_role = "code"
nitpicky = False

myst_enable_extensions = ["dollarmath", "deflist", "attrs_inline"]
myst_heading_anchors = 3
nb_execution_mode = "off"

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
html_theme_options = {
    "source_repository": "",
    "light_css_variables": {"color-brand-primary": "#1f6a9e", "color-brand-content": "#1f6a9e"},
    "dark_css_variables": {"color-brand-primary": "#7cc0ee", "color-brand-content": "#7cc0ee"},
}
html_theme_options.pop("source_repository")
