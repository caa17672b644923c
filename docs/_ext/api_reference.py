"""The reference: modules with their public names, summaries by task, and links from code.

    .. api-module:: pgmdiff.graphs.factor_graph     its mathematics, and its names as imported
    .. api-summary::                                a line for each of the names inside

Words in code, in docstrings and on pages, become links where they name one documented object:
`Posterior`, `samplers.karras`, `pgmdiff.compose(...)`, `FactorGraph.pack`.
"""

import ast
import inspect
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from types import FunctionType, ModuleType
from typing import get_origin

from api_names import public_name, resolved, shown_names, summary, text_of_data
from docstrings import literal_formulas, without_substitutions
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

NAME = re.compile(r"@?([A-Za-z_][\w.]*)(\(.*\))?$", re.DOTALL)
NOT_LINKED = {"denoise"}
"""Names that are, bare, more often a method or a model's own call."""
ARRAYS = dict.fromkeys(("Ints", "Floats", "Bools"), "numpy.ndarray") | {
    "npt.ArrayLike": "numpy.typing.ArrayLike"
}
"""What annotations say that are not ours to document."""
MEMBERS = {"method", "attribute", "property", "classmethod", "staticmethod"}


class ApiModule(SphinxDirective):
    """A module's docstring, then each public name under the name that users import."""

    required_arguments = 1
    option_spec = {"also": directives.unchanged}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        (name,) = self.arguments
        module = import_module(name)
        hidden = resolved(name) is not module  # by a function of the same name
        lines = ["" if hidden else f".. py:module:: {name}", ""]
        text = (inspect.getdoc(module) or "").splitlines()
        literal_formulas(None, "module", name, module, None, text)
        lines += [*text, ""]
        for each in shown_names(name, self.options.get("also", "").split()):
            if not _from_elsewhere(module, each):
                lines += _documented(module, each)
        node = nodes.container()
        self.state.nested_parse(StringList(lines, source=name), self.content_offset, node)
        self.env.note_dependency(module.__file__)
        return node.children


def _from_elsewhere(module: ModuleType, name: str) -> bool:
    """Whether the module that defines an object documents it."""
    home = getattr(getattr(module, name), "__module__", None)
    return home != module.__name__ and name in getattr(sys.modules.get(home), "__all__", ())


def _documented(module: ModuleType, name: str) -> list[str]:
    thing, known_as = getattr(module, name), public_name(module.__name__, name)
    if inspect.isclass(thing):
        kind = "exception" if issubclass(thing, BaseException) else "class"
        ours = any(base.__module__.startswith("pgmdiff") for base in thing.__bases__)
        inherits = ours or kind == "exception"
        return [f".. auto{kind}:: {known_as}", *["   :show-inheritance:"] * inherits, ""]
    if inspect.isroutine(thing):
        return [f".. autofunction:: {known_as}", ""]
    text = text_of_data(f"{module.__name__}.{name}").splitlines()
    home, _, short = known_as.rpartition(".")
    lines = [f".. py:data:: {short}", f"   :module: {home}", "", *(f"   {line}" for line in text)]
    return [*lines, ""]


class ApiSummary(SphinxDirective):
    """A table of names, each with its first sentence."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        lines = [".. list-table::", "   :widths: 35 65", "   :class: summary", ""]
        for name in filter(None, map(str.strip, self.content)):
            lines += [f"   * - `{name}`", f"     - {without_substitutions(summary(name))}"]
        node = nodes.container()
        self.state.nested_parse(StringList(lines, source="api-summary"), self.content_offset, node)
        return node.children


class Names:
    """Documented objects by what they may be called."""

    def __init__(self, app: Sphinx) -> None:
        self.targets = defaultdict(set)
        for full, entry in app.env.get_domain("py").objects.items():
            least = 2 if entry.objtype in MEMBERS else 1
            where = (entry.objtype, full, entry.docname, entry.node_id)
            for name in {full, _defined_as(app, full, entry.objtype)}:
                parts = name.split(".")
                for k in range(len(parts) - least + 1):
                    self.targets[".".join(parts[k:])].add(where)

    def find(self, text: str, modules: bool) -> tuple[str, str, str] | None:
        """Full name, document and anchor of the one object that a text means."""
        found = {}
        for kind, full, docname, node_id in self.targets.get(text, ()):
            if kind != "module" or modules or "." in text:
                rank = (kind == "module", full.count("."))
                best = found.get((docname, node_id))
                found[docname, node_id] = min(best, (rank, full)) if best else (rank, full)
        if not found:
            return None
        first = min(rank for rank, _ in found.values())
        best = [(full, *where) for where, (rank, full) in found.items() if rank == first]
        return best[0] if len(best) == 1 else None


def _defined_as(app: Sphinx, full: str, kind: str) -> str:
    """The name of a function or class in the module that defines it."""
    home, _, name = full.rpartition(".")
    return f"{home_of(app, home, name)}.{name}" if kind in ("class", "function") else full


def link_code(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Makes links of the literals that name one documented object."""
    if app.builder.format != "html":
        return
    names = _names(app)
    for literal in list(doctree.findall(nodes.literal)):
        match = NAME.match(literal.astext())
        if match is None or _is_fixed(literal):
            continue
        name = match.group(1)
        parameters, own = _context(literal)
        if name in parameters or name in NOT_LINKED:
            continue
        found = names.find(name, modules=_is_seen(literal)) or (
            names.find(f"{own}.{name}", modules=False) if own else None
        )
        if found is None or found[0] == own:
            continue
        full, target, node_id = found
        link = make_refnode(app.builder, docname, target, node_id, literal.deepcopy(), full)
        link["classes"].append("code-link")
        literal.parent.replace(literal, link)


def link_type(app: Sphinx, env, node: addnodes.pending_xref, content: nodes.Node):
    """A name in a signature that is data to Python's domain, such as an alias of a type."""
    if (
        node.get("refdomain") != "py"
        or (found := _names(app).find(node["reftarget"], True)) is None
    ):
        return None
    full, target, node_id = found
    return make_refnode(app.builder, node["refdoc"], target, node_id, content, full)


def _names(app: Sphinx) -> Names:
    if not hasattr(app, "pgmdiff_names"):
        app.pgmdiff_names = Names(app)
    return app.pgmdiff_names


def _is_seen(literal: nodes.literal) -> bool:
    """Whether a word follows `see`: the bare name of a module is linked only there."""
    siblings = literal.parent.children
    before = siblings[siblings.index(literal) - 1] if literal is not siblings[0] else None
    return isinstance(before, nodes.Text) and before.astext().lower().endswith("see ")


def _is_fixed(node: nodes.Node) -> bool:
    return any(
        isinstance(above, nodes.reference | nodes.title | addnodes.desc_signature)
        for above in _ancestors(node)
    )


def _context(node: nodes.Node) -> tuple[set[str], str]:
    """The parameters of the object whose docstring this is, and its name, or the class's."""
    parameters: set[str] = set()
    own = ""
    for above in _ancestors(node):
        if isinstance(above, addnodes.desc) and above.get("domain") == "py":
            signature = above.next_node(addnodes.desc_signature)
            if signature is not None:
                for parameter in signature.findall(addnodes.desc_parameter):
                    word = next(iter(parameter.findall(addnodes.desc_sig_name)), None)
                    parameters |= {word.astext()} if word is not None else set()
                if not own or above["objtype"] in ("class", "exception"):
                    own = f"{signature.get('module', '')}.{signature.get('fullname', '')}"
    return parameters, own.strip(".")


def _ancestors(node: nodes.Node) -> Iterator[nodes.Node]:
    while node.parent is not None:
        node = node.parent
        yield node


def home_of(app: Sphinx, module: str, name: str) -> str:
    """The module whose source defines what users import from another."""
    thing = getattr(resolved(module), name.split(".")[0], None) if module else None
    return thing.__module__ if inspect.isclass(thing) or inspect.isroutine(thing) else module


def add_anchors(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """The anchors to which listings of the source link back: by one module for all its names."""
    listed = getattr(app.env, "_viewcode_modules", {})
    for signature in doctree.findall(addnodes.desc_signature):
        name = signature.get("fullname")
        entry = name and listed.get(home_of(app, signature.get("module"), name))
        anchor = entry and f"{entry[3]}.{name}"
        if anchor and entry[2].get(name) == docname and anchor not in signature["ids"]:
            signature["ids"].append(anchor)


def type_aliases() -> dict[str, str]:
    """Our own names of types, such as `Score`, to where they are documented."""
    found = {}
    for module in [m for name, m in sys.modules.items() if name.startswith("pgmdiff.")]:
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if get_origin(thing) is not None:
                found[name] = public_name(module.__name__, name)
    return found


def keep_aliases(app: Sphinx, thing: object, bound: bool) -> None:
    """Annotations as they are written: signatures say `Score` and not what it stands for."""
    function = getattr(thing, "__func__", thing)
    if inspect.isfunction(function) and getattr(function, "__annotations__", None):
        with suppress(OSError, TypeError, SyntaxError):
            written = _written(function)
            for name in function.__annotations__:
                if isinstance(annotation := written.get(name), ast.expr):
                    function.__annotations__[name] = ast.unparse(annotation).strip("'")


def _written(function: FunctionType) -> dict[str, ast.expr | None]:
    """The annotations of a function, or of the fields of which a dataclass makes its `__init__`."""
    owner, _, name = function.__qualname__.rpartition(".")
    made = name == "__init__" and function.__code__.co_filename == "<string>"
    source = resolved(f"{function.__module__}.{owner}") if made else function
    tree = ast.parse(textwrap.dedent(inspect.getsource(source))).body[0]
    if isinstance(tree, ast.ClassDef):
        fields = [node for node in tree.body if isinstance(node, ast.AnnAssign)]
        return {node.target.id: node.annotation for node in fields if _is_plain(node.annotation)}
    if not isinstance(tree, ast.FunctionDef):
        return {}
    a = tree.args
    arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
    return {each.arg: each.annotation for each in arguments if each} | {"return": tree.returns}


def _is_plain(annotation: ast.expr) -> bool:
    return not ast.unparse(annotation).startswith("InitVar")


def short_aliases(app: Sphinx, what, name, thing, options, arguments: str, returns: str):
    """`Score` instead of `pgmdiff.scores.Score`, as other types are written."""
    alias = "|".join(map(re.escape, app.config.autodoc_type_aliases.values()))
    pattern = re.compile(rf"TypeAliasForwardRef\('([\w.]+)'\)|(?<![\w.~])({alias})\b")

    def short(text: str | None) -> str | None:
        return text and pattern.sub(lambda match: "~" + (match.group(1) or match.group(2)), text)

    if arguments and "<factory>" in arguments:
        arguments = arguments.replace("<factory>", "...")
    if what == "class" and _is_made_elsewhere(thing):
        return "", None
    return short(arguments), short(returns)


def _is_made_elsewhere(thing: type) -> bool:
    """Whether private arguments must be given: users then have other constructors."""
    with suppress(TypeError, ValueError):
        given = inspect.signature(thing).parameters.values()
        return any(p.name.startswith("_") and p.default is p.empty for p in given)
    return False


def setup(app: Sphinx) -> dict:
    import_module("pgmdiff.images.latents")
    app.config.autodoc_type_aliases = type_aliases() | ARRAYS
    app.connect("autodoc-before-process-signature", keep_aliases)
    app.connect("autodoc-process-signature", short_aliases)
    app.connect("missing-reference", link_type)
    app.add_directive("api-module", ApiModule)
    app.add_directive("api-summary", ApiSummary)
    app.connect("doctree-resolved", link_code)
    app.connect("doctree-resolved", add_anchors)
    app.connect("viewcode-follow-imported", home_of)
    return {"parallel_read_safe": True}
