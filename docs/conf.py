"How Sphinx reads the pages that `build.py` has laid out, and how the site looks. Nothing is loaded from a network."
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pages

project = "mmreid"
html_title = "mmreid"
author = "the mmreid authors"
copyright = "the mmreid authors; code under Apache-2.0"
root_doc = "index"
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx_design", "sphinxcontrib.bibtex"]
exclude_patterns = ["**.ipynb_checkpoints"]

# Notebooks keep the outputs that they were saved with.
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_render_image_options = {"alt": "The output of the cell above"}
myst_enable_extensions = ["dollarmath", "amsmath", "attrs_block", "colon_fence", "deflist"]
myst_heading_anchors = 3
mathjax_path = "mathjax/tex-chtml-full.js"

bibtex_bibfiles = ["nbs/references.bib"]
bibtex_default_style = "plain"

# Docstrings are plain text with shapes; `pages.as_text` makes them safe for reStructuredText.
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True,
                           "exclude-members": "model_config, model_post_init, set"}
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
add_module_names = False
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 100

html_theme = "pydata_sphinx_theme"
html_static_path = ["static"]
templates_path = ["templates"]
html_css_files = ["site.css"]
html_js_files = [("tables.js", {"defer": "defer"})]
html_show_sourcelink = False
html_copy_source = False
html_show_search_summary = False       # it would fetch pages, which a browser refuses in a folder of files
html_context = {"default_mode": "auto"}
alone = ("index", "start", "paper", "glossary", "bibliography", "CHANGELOG", "CONTRIBUTING", "search", "genindex")
html_sidebars = {page: [] for page in alone}
html_theme_options = {
    "search_bar_text": "Search",
    "navbar_align": "left",
    "show_toc_level": 2,
    "show_nav_level": 1,
    "navigation_depth": 3,
    "collapse_navigation": False,
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["rendered"],
    "footer_end": ["copyright"],
    "navigation_with_keys": False,
}


def setup(app):
    app.connect("autodoc-process-docstring", pages.as_text)
    app.connect("autodoc-skip-member", pages.without_fields)
