import builtins
import importlib.metadata
import os
import re
import sys

import attrs
from docutils import nodes

import tsstream

project = "tsstream"
author = "the tsstream contributors"
project_copyright = "the tsstream contributors"
release = importlib.metadata.version("tsstream")
version = ".".join(release.split(".")[:2])

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxcontrib_trio"]
exclude_patterns = ["_build", "snippets"]
html_theme = "furo"
html_title = f"tsstream {release}"
default_role = "any"
nitpicky = True
nitpick_ignore = [("py:class", "Ts")]  # a type variable, in the signature of run_thread_consumer()

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
add_module_names = False
python_maximum_signature_line_length = 80
# Sphinx 9's new autodoc does not ask sphinxcontrib-trio's documenters, and then "async with" is
# missing in front of every async context manager.
autodoc_use_legacy_class_based = True
napoleon_numpy_docstring = False

# Other projects' inventories come over the network, which a test must not need.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", None),
    "trio": ("https://trio.readthedocs.io/en/stable", None),
    "hypercorn": ("https://hypercorn.readthedocs.io/en/latest", None),
}
if os.environ.get("READTHEDOCS"):
    extensions.append("sphinx.ext.intersphinx")
else:
    nitpick_ignore_regex = [
        (r"py:.*", r"(?!tsstream\.)\w+\..*"),
        (r"py:.*", "|".join(dir(builtins))),
        (r"py:.*", r"tsstream\.(\w+\.)*_.*"),  # private classes and type variables, in signatures
        (r"py:exc", r"LifespanFailureError|.* .*"),  # "Raises:" in words
    ]

# Sources of a requirement, for those who work on tsstream: (AC-14), (D4 to D9), (HOST fault 6).
SOURCE = r"(?:(?:AC|BK|RQ|ET)-\d+|D\d+|HOST faults? \d+)"
SOURCES = re.compile(rf"\s*\({SOURCE}(?:(?:, | to | and ){SOURCE})*\)")
ENCODERS = {id(getattr(tsstream, name)): name for name in ("BYTES", "TEXT", "NDJSON", "SSE")}


def leave_out_sources(app, what, name, obj, options, lines):
    lines[:] = SOURCES.sub("", "\n".join(lines)).split("\n")


def show_defaults(app, what, name, obj, options, signature, return_annotation):
    """Show values for the names of our constants, and those that attrs has in attr_dict[...]."""
    if signature is None:
        return None

    def value(constant):
        found = getattr(sys.modules.get(obj.__module__), constant[0], None)
        return repr(found) if isinstance(found, int | float) else constant[0]

    if what != "class" or not attrs.has(obj):
        return re.sub(r"(?<== )[A-Z_]+\b", value, signature), return_annotation
    signature = re.sub(r", \w+: [~\w.]*\._\w+ = [^,)]*", "", signature)  # private ones
    for field in attrs.fields(obj):
        default = ENCODERS.get(id(field.default), repr(field.default))
        signature = signature.replace(f"attr_dict['{field.name}'].default", default)
    return signature, return_annotation


def link_to_public_name(app, env, node, contnode):
    """Let an annotation that names tsstream._some.module.Headers link to tsstream.Headers."""
    module, _, name = node.get("reftarget", "").rpartition(".")
    if module.startswith("tsstream._") and name in tsstream.__all__:
        return env.domains["py"].resolve_xref(
            env, node["refdoc"], app.builder, "obj", f"tsstream.{name}", node, contnode
        )
    return None


def trim_listings(app, doctree):
    """Leave out the blank lines between a listing and the marker at which it ends."""
    for block in doctree.findall(nodes.literal_block):
        block.rawsource = block.astext().rstrip()
        block.children = [nodes.Text(block.rawsource)]


def setup(app):
    app.connect("doctree-read", trim_listings)
    app.connect("missing-reference", link_to_public_name)
    app.connect("autodoc-process-docstring", leave_out_sources, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", show_defaults)
