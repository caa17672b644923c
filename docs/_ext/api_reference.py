"""The reference: modules with their public names, and links from code to them.

    .. api-module:: pgmdiff.graphs.regions     a module's mathematics, and its names as imported
       :also: Condition                        names that no package offers

Words in code, in docstrings and on pages, become links where they name one documented object:
`Posterior`, `samplers.karras`, `pgmdiff.compose(...)`, `FactorGraph.pack`.
"""

import inspect
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pkgutil import resolve_name
from typing import Literal, get_origin

from api_names import public_name, shown_names
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.ext import autosummary
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

LOGGER = logging.getLogger(__name__)
NAME = re.compile(r"@?([A-Za-z_][\w.]*)(\(.*\))?$", re.DOTALL)
NOT_LINKED = {"denoise"}
"""Names that are, bare, more often a method or a model's own call."""
FIXED = nodes.reference, nodes.title, addnodes.desc_signature
"""Inside of these nothing is linked."""
NOT_ALONE = {"method", "attribute", "property", "classmethod", "staticmethod", "module"}


class ApiModule(SphinxDirective):
    """A module's docstring, then each public name under the name that users import."""

    required_arguments = 1
    option_spec = {"also": directives.unchanged}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        (name,) = self.arguments
        module = import_module(name)
        lines = [f".. automodule:: {name}", "   :no-members:", ""]
        for each in shown_names(name, self.options.get("also", "").split()):
            thing = getattr(module, each)
            home = getattr(thing, "__module__", name)
            if home == name or each not in getattr(sys.modules.get(home), "__all__", ()):
                lines += _documented(thing, public_name(name, each))
        return self.parse_text_to_nodes("\n".join(lines))


def _documented(thing: object, name: str) -> list[str]:
    """The directive that documents an object; bases are shown where they say something."""
    if inspect.isclass(thing):
        error = issubclass(thing, BaseException)
        known = error or any(base.__module__.startswith("pgmdiff") for base in thing.__bases__)
        kind = "exception" if error else "class"
        return [f".. auto{kind}:: {name}", *["   :show-inheritance:"] * known, ""]
    if inspect.isroutine(thing):
        return [f".. autofunction:: {name}", ""]
    return [f".. autodata:: {name}", "   :annotation:", ""]


def data_docstring(app: Sphinx, what, name: str, thing, options, lines: list[str]) -> None:
    """The string under the assignment of a constant or an alias, in the module that makes it."""
    short = name.rpartition(".")[2]
    if what in ("data", "type"):
        for key in sorted(key for key in sys.modules if key.startswith("pgmdiff.")):
            if getattr(sys.modules[key], short, None) is thing:
                documented = ModuleAnalyzer.for_module(key).find_attr_docs()
                lines[:] = documented.get(("", short), lines)
        if not any(lines) and get_origin(thing) is not Literal:  # which speaks for itself
            LOGGER.warning("%s has no docstring", name)


@cache
def targets(app: Sphinx) -> Mapping[str, set[tuple[str, str]]]:
    """The document and the anchor of documented objects, by every ending of their names.

    Methods need their class, and modules their package, except after `see`.
    """
    found = defaultdict(set)
    for full, entry in app.env.domains.python_domain.objects.items():
        home, _, name = full.rpartition(".")
        if entry.objtype == "function":
            home = home_of(app, home, name)
        where = entry.docname, entry.node_id
        for parts in (full.split("."), [*home.split("."), name]):
            for k in range(len(parts) - (entry.objtype in NOT_ALONE)):
                found[".".join(parts[k:])].add(where)
        if entry.objtype == "module":
            found[f"see {name}"].add(where)
    return found


def linked(app: Sphinx, docname: str, name: str, content: nodes.Node) -> nodes.reference | None:
    """A link to the one object that a name means."""
    found = targets(app).get(name, ())
    if len(found) != 1:
        return None
    ((target, node_id),) = found
    return make_refnode(app.builder, docname, target, node_id, content.deepcopy(), node_id)


def link_type(app: Sphinx, env, node: addnodes.pending_xref, content: nodes.Node):
    """Links a type in a signature, which is known by its last name only."""
    ours = node.get("refdomain") == "py"
    return linked(app, node["refdoc"], node["reftarget"], content) if ours else None


def link_code(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Makes links of the literals that name one documented object."""
    for literal in list(doctree.findall(nodes.literal)):
        match, above = NAME.match(literal.astext()), list(_ancestors(literal))
        if match is None or any(isinstance(node, FIXED) for node in above):
            continue
        name, (parameters, own) = match.group(1), _context(above)
        if name in parameters or name in NOT_LINKED:
            continue
        place = literal.parent.index(literal)
        before = literal.parent[place - 1].astext() if place else ""
        meant = [name, f"{own}.{name}", *[f"see {name}"] * before.endswith("see ")]
        links = (linked(app, docname, each, literal) for each in meant)
        link = next(filter(None, links), None)
        if link is not None and link["reftitle"] != own:
            link["classes"].append("code-link")
            literal.parent[place] = link


def _context(above: list[nodes.Node]) -> tuple[set[str], str]:
    """The parameters of the object whose docstring this is, and its name, or the class's."""
    parameters: set[str] = set()
    own = ""
    for node in above:
        if isinstance(node, addnodes.desc) and node.get("domain") == "py":
            signature = node.next_node(addnodes.desc_signature)
            if signature is not None:
                for parameter in signature.findall(addnodes.desc_parameter):
                    word = parameter.next_node(addnodes.desc_sig_name)
                    parameters |= {word.astext()} if word is not None else set()
                if not own or node["objtype"] in ("class", "exception"):
                    own = f"{signature.get('module', '')}.{signature.get('fullname', '')}"
    return parameters, own.strip(".")


def _ancestors(node: nodes.Node) -> Iterator[nodes.Node]:
    while node.parent is not None:
        node = node.parent
        yield node


def home_of(app: Sphinx, module: str, name: str) -> str:
    """The module whose source defines what users import from another."""
    thing = getattr(resolve_name(module), name.split(".")[0], None) if module else None
    return thing.__module__ if inspect.isclass(thing) or inspect.isroutine(thing) else module


def add_anchors(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Adds the anchors to which listings of the source link back."""
    listed = getattr(app.env, "_viewcode_modules", {})
    for signature in doctree.findall(addnodes.desc_signature):
        name = signature.get("fullname")
        entry = name and listed.get(home_of(app, signature.get("module"), name))
        anchor = entry and f"{entry[3]}.{name}"
        if anchor and entry[2].get(name) == docname and anchor not in signature["ids"]:
            signature["ids"].append(anchor)


def setup(app: Sphinx) -> dict:
    autosummary.WELL_KNOWN_ABBREVIATIONS += ("Eq.",)
    app.add_directive("api-module", ApiModule)
    app.connect("autodoc-process-docstring", data_docstring, priority=600)
    app.connect("missing-reference", link_type)
    app.connect("doctree-resolved", link_code)
    app.connect("doctree-resolved", add_anchors)
    app.connect("viewcode-follow-imported", home_of)
    return {"parallel_read_safe": True}
