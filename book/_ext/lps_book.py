"""Sphinx extension of this book: executed notebooks, results, claims and proofs.

The table of contents names the editable notebooks, ``notebooks/<name>``. While Sphinx reads one, this
extension hands it the executed copy ``build/notebooks/<profile>/<name>.ipynb`` instead. So the page shows
outputs, and the launch, edit and download buttons point at the source. ``BOOK_PROFILE`` names the profile.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import lps_results
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging
from sphinx_proof import directive as proof_directive
from sphinx_proof import domain, proof_type
from sphinx_proof import nodes as proof_nodes

from lps.notebooks.worker import files_hash

logger = logging.getLogger(__name__)


class claim_node(nodes.Admonition, nodes.Element):
    """A numbered claim, beside sphinx-proof's own lemma, theorem and so on."""


class ClaimDirective(proof_directive.ElementDirective):
    """``{prf:claim}``: the type that the paper uses and sphinx-proof lacks."""

    name = "claim"


def register_claim() -> None:
    """Add ``claim`` to sphinx-proof's tables; has to happen before its own set-up."""
    proof_type.PROOF_TYPES["claim"] = ClaimDirective
    proof_nodes.NODE_TYPES["claim"] = claim_node
    proof_directive.DEFAULT_REALTYP_TO_COUNTERTYP["claim"] = "claim"
    domain.ProofDomain.directives["claim"] = ClaimDirective


def substitute_executed(app: Sphinx, docname: str, content: list[str]) -> None:
    """On ``source-read``: give Sphinx the executed copy of a notebook, in a reader's order: below the title the cells
    tagged ``lede``, a picture and its words, with the answers of the front page that this page is the evidence of, then
    how the page was made, folded into one line, and then the rest."""
    if not docname.startswith("notebooks/"):
        return
    name = docname.removeprefix("notebooks/")
    executed = lps_results.executed_notebook(app.config, name)
    app.env.note_dependency(str(executed))
    if not executed.is_file():
        logger.warning(
            "%s has not been executed with the profile %r; run: make reproduce PROFILE=%s NB=%s",
            docname, app.config.lps_profile, app.config.lps_profile, name, location=docname,
        )  # fmt: skip
        return
    notebook = json.loads(executed.read_text(encoding="utf-8"))
    title, *cells = notebook["cells"]
    given = ("".join(line for c in cells if tagged(c, tag) for line in c["source"]) for tag in PARAMETERS)
    answers, folded = (
        {"cell_type": "markdown", "id": made, "metadata": {}, "source": f"```{{lps-{made}}} {of}\n```"}
        for made, of in (("answers", docname), ("provenance", f"\n{with_values(*given)}"))
    )
    lede = [c for c in cells if tagged(c, "lede")]
    pictures, words = ([c for c in lede if (c["cell_type"] == "code") == code] for code in (True, False))
    rest = [c for c in cells if not tagged(c, "lede", *PARAMETERS)]
    content[0] = json.dumps({**notebook, "cells": [title, *pictures, answers, *words, folded, *rest]})


def tagged(cell: dict[str, Any], *tags: str) -> bool:
    return not set(tags).isdisjoint(cell["metadata"].get("tags", []))


WRITES_PAGES = ("book/_ext/*.py", "book/_ext/templates/*", "lps/report/*.py")
"""What writes results on pages. Sphinx does not watch it, so its hash is a value of the configuration."""

PARAMETERS = ("parameters", "injected-parameters")
"""Tags of the cell that declares a notebook's parameters, and of the one in which papermill sets some of them."""


def with_values(declared: str, injected: str) -> str:
    """The declared parameters, with their comments, at the values that were injected."""
    for name, value in re.findall(r"^(\w+) = (.*)$", injected, re.MULTILINE):
        declared = re.sub(rf"^{name} = .*?(?=  #|$)", lambda _: f"{name} = {value}", declared, flags=re.MULTILINE)  # noqa: B023
    return declared


def link_repository(app: Sphinx, config: Config) -> None:
    """On ``config-inited``: show source, edit and launch buttons where the build knows its repository."""
    options: dict[str, Any] = config.html_theme_options
    name = os.environ.get("GITHUB_REPOSITORY")
    if name:
        options["repository_url"] = f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}"
        options["use_repository_button"] = options["use_edit_page_button"] = True
        options["launch_buttons"] = {
            "colab_url": "https://colab.research.google.com",
            "binderhub_url": "https://mybinder.org",  # makes its machine from environment.yml
            "notebook_interface": "jupyterlab",
        }
    else:
        for option in ("repository_url", "launch_buttons", "use_repository_button", "use_edit_page_button"):
            options.pop(option, None)


def repeat_heads(app: Sphinx, doctree: nodes.document) -> None:
    """On ``doctree-read``: begin each cell of a wide table with the head of its column, which ``custom.css`` shows on a
    phone, where cells stand one below the other. In two columns a name and its meaning need none."""
    for head in doctree.findall(nodes.thead):
        heads = [[*cell.findall(nodes.Text)] and cell[0].children for cell in head[0]]
        body = head.next_node(nodes.tbody, descend=False, siblings=True)
        for row in body if body is not None and len(heads) > 2 else ():
            for words, cell in zip(heads[1:], row[1:], strict=False):
                if words and cell.children:
                    copies = [*(word.deepcopy() for word in words), nodes.Text(": ")]
                    cell[0].insert(0, nodes.inline("", "", *copies, classes=["lps-head"]))


def own_members(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """On ``autodoc-skip-member``: the fields of a named tuple stand in its signature."""
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field number") else None


def set_theme_mode(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """On ``html-page-context``: the theme's script rejects the empty mode that jupyter-book leaves."""
    context["default_mode"] = "auto"


def forget_failed_build(app: Sphinx, error: Exception | None) -> None:
    """On ``build-finished``: an unchanged page would not warn again and pass next time; read all anew."""
    if app.statuscode:
        Path(app.doctreedir, "environment.pickle").unlink(missing_ok=True)


def own_module(app: Sphinx, module: str, name: str) -> str | None:
    """On ``viewcode-follow-imported``: the type of an alias such as ``list[int]`` has no listing, its module has."""
    return module if getattr(getattr(sys.modules.get(module), name, None), "__module__", None) == "builtins" else None


def setup(app: Sphinx) -> dict[str, Any]:
    sys.path.insert(0, str(Path(__file__).parents[2]))  # the API pages describe the ``lps`` of this checkout
    register_claim()
    app.setup_extension("sphinx_proof")
    app.add_config_value("lps_profile", os.environ.get("BOOK_PROFILE", "quick"), "env")
    app.add_config_value("lps_writes_pages", files_hash(Path(__file__).resolve().parents[2], WRITES_PAGES), "env")
    app.connect("config-inited", link_repository, priority=100)
    app.connect("source-read", substitute_executed)
    app.connect("doctree-read", repeat_heads)
    app.connect("autodoc-skip-member", own_members)
    app.connect("html-page-context", set_theme_mode, priority=900)
    app.connect("viewcode-follow-imported", own_module)
    app.connect("build-finished", forget_failed_build, priority=900)
    lps_results.setup(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
