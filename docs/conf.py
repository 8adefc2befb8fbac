"""Configuration of the documentation. The build needs no network, and its gallery runs on the CPU."""

import importlib.metadata
import importlib.util
import os

os.environ.setdefault("MPLBACKEND", "Agg")


def has(module):
    """Tell whether a module can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


project = "structmat"
author = "The structmat developers"
copyright = f"2026, {author}"
release = importlib.metadata.version("structmat")
version = ".".join(release.split(".")[:2])

# The pages themselves need Sphinx and numpydoc. Without the others they look plainer and have no gallery.
extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc"]
extensions += [name for name in ("sphinx_gallery.gen_gallery", "sphinx_copybutton") if has(name.split(".")[0])]
templates_path = ["_templates"]
exclude_patterns = [
    "_build",
    "examples",
    "conftest.py",
    "sg_execution_times.rst",
    "**/sg_execution_times.rst",
]
default_role = "autolink"  # `name` links to what is documented, and is code otherwise
pygments_style = "sphinx"

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's sections give the types, with shapes and units
autodoc_member_order = "groupwise"
numpydoc_show_class_members = False  # the template of a class lists its members
numpydoc_xref_param_type = False

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "abort_on_example_error": True,
    "parallel": 2,  # examples run two at a time, each in a process of its own
    "download_all_examples": False,
    "show_signature": False,
    "min_reported_time": 5,
    "doc_module": ("structmat",),
    "backreferences_dir": None,
}

html_theme = "pydata_sphinx_theme" if has("pydata_sphinx_theme") else "alabaster"
html_title = f"structmat {version}"
html_show_sourcelink = False
html_copy_source = False
if html_theme == "pydata_sphinx_theme":
    html_theme_options = {
        "navbar_end": ["theme-switcher"],
        "secondary_sidebar_items": ["page-toc"],
        "footer_start": ["copyright"],
        "footer_end": [],
        "show_prev_next": False,
        "show_nav_level": 2,
    }
    html_sidebars = {"index": [], "getting_started": [], "changelog": []}
