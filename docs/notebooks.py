"""Notebooks as pages: what a reader does not need is left out or folded, and links lead to something.

A page has the same path below the build folder as its source has below the repository, so few links change."""
import os
import re
import shutil
from pathlib import Path

import nbformat

DIRECTIVE = re.compile(r"^#\|[ \t]*(.*?)[ \t]*$\n?", re.MULTILINE)
ANSWER = re.compile(r"^([ \t]*)### BEGIN SOLUTION.*?### END SOLUTION[ \t]*$", re.MULTILINE | re.DOTALL)
HIDDEN = re.compile(r"^[ \t]*### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS[ \t]*$\n?", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
FENCE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
PAGES = {"nbs/references.bib": "bibliography.md", "README.md": "index.md", "nbs/index.ipynb": "index.md",
         "nbs/start.ipynb": "notebooks.md", "nbs/demo.ipynb": "nbs/8_real_datasets/16_demo_page.ipynb",
         "docs/start.md": "start.md",
         "results/benchmarks.csv": "results/benchmarks.md", "results/trials.csv": "results/benchmarks.md"}


def target_page(path, root):
    "The page of the site that shows the file `path` of the repository `root`, both relative to it, or None."
    if path in PAGES: return PAGES[path]
    if path.endswith("claims.csv"): return path.replace(".csv", ".md")
    if path.startswith("results/") and path.endswith(".md"): return f"{Path(path).parents[1]}/index.md"    # its tables
    is_page = path.endswith(".ipynb") or (path.endswith(".md") and "/" not in path)
    return path if is_page and Path(root, path).is_file() else None


def local_path(link, page, root):
    "The path below `root` of the file that a `link` of the source file `page` means, or None for other links."
    if re.match(r"[a-z]+:|#|/", link): return None
    path = os.path.normpath(Path(page).parent / link.partition("#")[0])
    return path if Path(root, path).exists() else None


def copied(path, root, site):
    "Copy a file of the repository below the folder `site` unless it is there."
    target = Path(site, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists(): shutil.copy2(Path(root, path), target)


def with_links(text, page, root, site, written=None):
    """Markdown of the source file `page` with links that hold in the site.

    A link to a file without a page becomes a download: the file is copied beside the pages. `written`: the place from
    which the links start, where it is not that of `page`."""
    folder = Path(page).parent

    def replaced(match):
        link = match.group(1)
        path = local_path(link, written or page, root)
        if path is None: return link
        shown, fragment = target_page(path, root), link.partition("#")[2]
        if shown is None and Path(root, path).is_file(): copied(path, root, site)
        return os.path.relpath(shown or path, folder) + (f"#{fragment}" if fragment else "")

    parts = FENCE.split(text)
    return "".join(part if number % 2 else LINK.sub(replaced, part) for number, part in enumerate(parts))


def shown_cell(cell):
    """A code cell for readers, or None if nothing of it is shown.

    `#| hide` folds it, `#| echo: false` leaves its outputs; all directives go, and so do the answers of exercises."""
    marks = DIRECTIVE.findall(cell.source)
    cell.source = HIDDEN.sub("", ANSWER.sub(r"\1...     # your answer", cell.source))
    if "solved.quiz(" in cell.source: cell.outputs = []     # its script needs a kernel's page
    cell.source = DIRECTIVE.sub("", cell.source).strip("\n")
    if not cell.source and not cell.outputs: return None
    tags = [tag for tag in cell.metadata.get("tags", []) if tag in ("hide-cell", "hide-input", "hide-output")]
    if "hide" in marks or "injected-parameters" in cell.metadata.get("tags", []): tags.append("hide-cell")
    if "echo: false" in marks: tags.append("remove-input")
    cell.metadata = nbformat.NotebookNode(tags=tags) if tags else nbformat.NotebookNode()
    return cell


def exported_module(notebook):
    "The module that a notebook exports (`#| default_exp`), with its package, or None."
    found = re.search(r"^#\| default_exp (\S+)", "\n".join(cell.source for cell in notebook.cells), re.MULTILINE)
    return f"mmreid.{found.group(1)}" if found else None


def with_place(source, page, module, site):
    "The first Markdown cell, with the file's place and a link to its module's reference under title and blurb."
    head = re.match(r"# .*\n(\s*>.*\n?)*", source)
    if not head: return source
    line = f"Notebook `{page}`"
    reference = Path(site, "api", f"{module}.rst")
    if module and reference.exists():
        line += f", module [`{module}`]({os.path.relpath(reference, Path(site, page).parent)})"
    return f"{head.group().rstrip()}\n\n{{.place}}\n{line}\n\n{source[head.end():]}"


def write_notebook(page, root, site):
    """The notebook `page` of the repository `root` as a page below `site`.

    An executed stage has its file's name as title."""
    notebook = nbformat.read(Path(root, page), as_version=4)
    module, cells, title = exported_module(notebook), [], None
    written = f"nbs/stages/{Path(page).name}" if page.startswith("results/") else page      # an executed stage
    relinked = lambda text: with_links(text, page, root, site, written)
    for cell in notebook.cells:
        if cell.cell_type == "code": cell = shown_cell(cell)
        if cell is None: continue
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/markdown" in data: data["text/markdown"] = relinked(data["text/markdown"])
        if cell.cell_type == "markdown":
            cell.source = relinked(cell.source)
            if title is None and cell.source.startswith("# "):
                title = cell.source.splitlines()[0][2:]
                if written != page: cell.source = cell.source.replace(title, Path(page).stem, 1)
                cell.source = with_place(cell.source, page, module, site)
        cells.append(cell)
    notebook.cells = cells
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    target = Path(site, page)
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)
