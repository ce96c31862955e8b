"""Sphinx settings of the site. Nothing is fetched from the network, by the build or by the pages."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import warnings
from pathlib import Path
from typing import Any

from docutils import nodes

import flowvae
from website.docstrings import to_rst
from website.paths import BUILD, repository
from website.reference import short_names

warnings.simplefilter("ignore")

HERE = Path(__file__).parent
project = "flowvae"
author = "the flowvae developers"
copyright = author  # noqa: A001  (Sphinx's name for it)
version = release = flowvae.__version__
root_doc = "index"
exclude_patterns = ["_build"]
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
]

# pages
myst_enable_extensions = ["amsmath", "attrs_block", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
nb_execution_mode = "off"  # website.execute has run them
nb_code_prompt_show = "Show code"
nb_code_prompt_hide = "Hide code"
nb_ipywidgets_js: dict[str, Any] = {}  # the script would be loaded from the network
suppress_warnings = ["mystnb.unknown_mime_type"]
copybutton_exclude = ".linenos, .gp, .go"

# the reference
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [("References", "notes_style")]
add_module_names = False
toc_object_entries_show_parents = "hide"
highlight_language = "python"
nitpicky = True

# cross-references to other projects, from the plain-text lists beside this file
ADDRESSES = {
    "arviz": "https://python.arviz.org/en/v0.22.0/",
    "matplotlib": "https://matplotlib.org/stable/",
    "numpy": "https://numpy.org/doc/stable/",
    "pandas": "https://pandas.pydata.org/docs/",
    "pyro": "https://docs.pyro.ai/en/stable/",
    "python": "https://docs.python.org/3/",
    "torch": "https://docs.pytorch.org/docs/stable/",
    "zuko": "https://zuko.readthedocs.io/stable/",
}
LISTS = {name: HERE / "inventories" / f"{name}.txt" for name in ADDRESSES}
intersphinx_mapping = {name: (url, str(LISTS[name])) for name, url in ADDRESSES.items()}
intersphinx_disabled_reftypes = ["*"]

# looks
html_theme = "sphinx_book_theme"
html_title = "flowvae"
MATHJAX = Path(str(importlib.util.find_spec("sphinx-mathjax-offline").origin)).parent / "static"  # type: ignore
html_static_path = [str(HERE / "static"), str(MATHJAX)]
html_extra_path = [str(BUILD / "extra")]  # pages that are HTML already
html_css_files = ["site.css"]
mathjax_path = "mathjax/tex-chtml.js"
html_last_updated_fmt = None
html_show_sourcelink = False
html_copy_source = True
html_theme_options = {
    "repository_url": repository(),
    "repository_branch": "main",
    "path_to_docs": "",
    "use_repository_button": True,
    "use_download_button": True,
    "use_fullscreen_button": False,
    "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "navbar_persistent": [],
}


def _listed() -> dict[str, str]:
    """Maps unique short names and full names of objects of other projects to the full names."""
    found: dict[str, set[str]] = {}
    for path in LISTS.values():
        for line in path.read_text().splitlines()[3:]:
            full = line.split()[0]
            found.setdefault(full.rpartition(".")[2], set()).add(full)
    short = {name: next(iter(full)) for name, full in found.items() if len(full) == 1}
    return short | {full: full for every in found.values() for full in every}


OTHERS = _listed()
# names in signatures and under Raises that are not public and have no page
UNLISTED = {
    *("DamagedError", "MeasurementError", "NonFiniteError"),
    *("AffineLayer", "Animation", "Chunk", "Code", "Data", "Estimate", "Held", "Items", "LazySequence", "P", "PRDC"),
    *("Program", "Raw", "Shared", "Signature", "T", "WithPosterior", "WithPrior"),
}


def link(name: str) -> str | None:
    """Returns the public object for a code span; None for plain lower-case words, which may be arguments.

    Args:
        name: the text between backticks.

    """
    if "." in name and name in OTHERS:
        return name
    if name.startswith("flowvae."):
        return name if name in short_names().values() else None
    if not re.fullmatch(r"\w+", name) or (name.islower() and "_" not in name):
        return None
    return short_names().get(name) or OTHERS.get(name)


def _convert(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    lines[:] = to_rst(lines, link)
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]  # an empty comment; otherwise napoleon reads the text before a colon as a type


def _signature(
    app: Any, what: str, name: str, value: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """Shows defaults of dataclasses in place of <factory>, and types without annotations for the command line."""
    if not signature:
        return None
    signature = re.sub(
        r"~?[\w.]*Annotated\[~?([\w.]+)\.Family, ~?tyro.*?\)\]", "~flowvae.flows.spec.FlowSpec", signature
    )
    signature = signature.replace("PosixPath(", "Path(")
    for field in dataclasses.fields(value) if dataclasses.is_dataclass(value) else ():
        if field.default_factory is not dataclasses.MISSING and field.init and "<factory>" in signature:
            default = type(field.default_factory()).__name__
            shown = "{}" if default == "dict" else "..." if default.endswith("Path") else f"{default}()"
            signature = re.sub(rf"(\b{field.name}: [^<]*?)<factory>", rf"\g<1>{shown}", signature, count=1)
    return signature.replace("<factory>", "..."), returns


def _resolve(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Resolves a type that a signature names without its module."""
    if node.get("refdomain") != "py":
        return None
    short = str(node["reftarget"]).rpartition(".")[2]
    domain = env.domains["py"]
    if full := short_names().get(short):
        return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", full, node, contnode)
    if full := OTHERS.get(str(node["reftarget"])) or OTHERS.get(short):
        from sphinx.ext.intersphinx import resolve_reference_any_inventory

        node["reftype"], node["reftarget"] = "obj", full
        return resolve_reference_any_inventory(env, False, node, contnode)
    if short in UNLISTED or "[" in node["reftarget"]:  # or a part of a string annotation
        return nodes.inline("", "", contnode)
    return None


def setup(app: Any) -> None:
    """Connects the hooks.

    Args:
        app: the Sphinx application.

    """
    app.connect("autodoc-process-docstring", _convert, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", _signature)
    app.connect("missing-reference", _resolve)
