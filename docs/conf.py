"""The site of these pages: Sphinx reads them and the docstrings, and takes no link that leads nowhere (`make docs`)."""

import sys
from pathlib import Path

from sphinx.util.nodes import make_refnode

sys.path.insert(0, str(Path(__file__).parent.parent))

project = "Penstock"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "Penstock"
html_copy_source = False
html_show_copyright = False

myst_heading_anchors = 4  # links to headings, as on GitHub

nitpicky = True
default_role = "py:obj"  # `Name` in a docstring is a link; ``code`` is not
autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_preserve_defaults = True
autodoc_mock_imports = ["rsl_rl", "tensordict", "torch"]  # an extra of its own, which the pages do not need
napoleon_numpy_docstring = False
napoleon_attr_annotations = False  # types stand in the signature
napoleon_use_ivar = False
napoleon_use_rtype = False

nitpick_ignore_regex = [
    ("py:.*", r"(abc|collections|dataclasses|enum|equinox|jax|jaxlib|jaxtyping|numpy|optax|pathlib|types|typing)\..*"),
    ("py:.*", r"(rsl_rl|torch)\..*"),  # of an extra, mocked
    ("py:class", "Array|Float|Tensor|ndarray"),
    ("py:.*", r"penstock\.training\..*"),  # an inner room
    ("py:.*", r".*\.(ConfigT|Parameters|S|T)"),  # type variables
]
"""What is named and is no link: things of others, because the build asks no network, and of no interest here."""


def setup(app):
    """Teaches Sphinx the habits of the docstrings, and where a name is found."""
    app.connect("autodoc-process-docstring", read_as_written, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", as_users_write)
    app.connect("autodoc-skip-member", skip_fields_of_tuples)
    app.connect("missing-reference", find_by_the_end)


def read_as_written(app, what, name, obj, options, lines):
    """Equations and examples are indented by four, as in Markdown; the docstring of a field is a sentence, no type."""
    for index, line in reversed(list(enumerate(lines))):
        before = next((earlier for earlier in reversed(lines[:index]) if earlier), "")
        begins = line.startswith("    ") and not (index and lines[index - 1])
        if begins and before and not before.startswith(" "):
            lines[index:index] = ["::", ""]
    if what in ("attribute", "data", "property") and lines and lines[0]:
        lines[0] = f": {lines[0]}"


def as_users_write(app, what, name, obj, options, signature, returned):
    """``<factory>``, as dataclasses show a default that is made anew, is no Python, and hides all types."""

    def readable(text):
        return text and text.replace("<factory>", "...").replace("jaxlib._jax.Array", "jax.Array")

    return readable(signature), readable(returned)


def skip_fields_of_tuples(app, what, name, obj, skip, options):
    """A named tuple's docstring has its fields; Python's "alias for field number 0" adds nothing."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def find_by_the_end(app, env, node, contnode):
    """A docstring may name anything of the reference by the end of its name: `Replay.sample`, `RunPlan`.

    A name that a room shows at its door is found behind it too: `penstock.physics.quality.check_mesh`.
    """
    if node.get("refdomain") != "py":
        return None
    room, end = "", node["reftarget"].split(".")
    if end[0] == "penstock" and len(end) > 2:
        room, end = end[1], end[2:]
        while len(end) > 1 and end[0].islower():  # modules in the room
            end = end[1:]
    found = env.domains["py"].find_obj(env, None, None, ".".join(end), None, 1)
    places = {(entry.docname, entry.node_id) for full, entry in found if full.startswith(f"penstock.{room}")}
    if len(places) != 1:
        return None
    ((page, place),) = places
    return make_refnode(app.builder, node["refdoc"], page, place, contnode)
