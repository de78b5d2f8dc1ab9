"The pages that are lists: notebooks by chapter, the reference by module, and the navigation between them."
import ast
import re
from functools import cached_property
from pathlib import Path

import nbformat
import yaml

# the pages of the site's header, in order
HEADER = ["start", "The paper <paper>", "notebooks", "nbs/course/index", "results/index", "api/index", "glossary",
          "bibliography", "CHANGELOG", "CONTRIBUTING"]


def captions(root):
    "Titles and sentences for chapters, figures and tables, from `docs/captions.yaml`."
    return yaml.safe_load(Path(root, "docs/captions.yaml").read_text())


def toctree(entries, *options):
    "A hidden list of pages, which makes the navigation."
    lines = ["```{toctree}", ":hidden:", *options, "", *entries, "```"]
    return "\n".join(lines) + "\n"


def chapters(root):
    "The chapters in reading order, as folders below `root`."
    return sorted(p.relative_to(root) for p in Path(root, "nbs").glob("[0-9]*_*") if any(p.glob("*.ipynb")))


def course_notebooks(root):
    "The notebooks of the course below `root`, or none where there is no course."
    return _notebooks(root, "nbs/course", "**/*.ipynb")


def run_notebooks(root):
    """The executed stage notebooks of the rows that `params.yaml` lists, in the order of the stages.

    Git does not have them. Those of each row of the study are left out: they are hundreds, and look like these."""
    params = yaml.safe_load(Path(root, "params.yaml").read_text())
    rows = {"train": params["main_variants"], "evaluate": params["main_variants"],
            "analyse": params["analysed_variants"]}
    names = ["render", *(f"{stage}-{data}" for data in params["datasets"] for stage in ("pack", "references"))]
    names += [f"{stage}-{data}-{row}-{seed}" for stage in rows for data in params["datasets"] for row in rows[stage]
              for seed in params["seeds"]]
    folder = f"results/{params['profile']}/notebooks"
    pages = [f"{folder}/{name}.ipynb" for name in [*names, "report", "study-report", "compare"]]
    return [page for page in pages if Path(root, page).exists()]


def _notebooks(root, folder, pattern):
    found = [p for p in sorted(Path(root, folder).glob(pattern)) if ".ipynb_checkpoints" not in p.parts]
    return [str(p.relative_to(root)) for p in found]


def every_notebook(root):
    "All notebooks that become pages."
    own = [page for chapter in chapters(root) for page in _notebooks(root, chapter, "*.ipynb")]
    return own + _notebooks(root, "nbs/stages", "*.ipynb") + run_notebooks(root) + course_notebooks(root)


def title_and_blurb(path):
    "The title of a notebook and its blurb: the line `> …` under it, or else nothing."
    cells = nbformat.read(path, as_version=4).cells
    text = next((cell.source for cell in cells if cell.cell_type == "markdown" and cell.source.startswith("# ")), "")
    title = re.match(r"# (.*)", text)
    blurb = re.search(r"^> ?(.*)", text, re.MULTILINE)
    return title.group(1) if title else Path(path).stem, blurb.group(1) if blurb else ""


def listed(root, folder, notebooks):
    "A numbered list of notebooks with their blurbs, for a page in `folder`."
    lines = []
    for number, page in enumerate(notebooks, 1):
        title, blurb = title_and_blurb(Path(root, page))
        path = Path(page).relative_to(folder)
        if title.startswith("Stage: ") and "stages" not in page: title = path.stem
        lines.append(f"{number}. [{title}]({path}){': ' if blurb else ''}{blurb}")
    return "\n".join(lines) + "\n"


def notebook_lists(root):
    "[(page, text)]: the page of all notebooks, one for each chapter, for the stages, for the last run, for the course."
    words, found, text = captions(root)["chapters"], [], [Path(root, "docs/lists/notebooks.md").read_text()]
    for chapter in chapters(root):
        number, _, name = chapter.name.partition("_")
        title, sentence = words.get(name, [name.replace("_", " ").capitalize(), ""])
        notebooks = _notebooks(root, chapter, "*.ipynb")
        text.append(f"## {number}. [{title}]({chapter}/index.md)\n\n{sentence}\n\n{listed(root, '.', notebooks)}")
        head = f"# {number}. {title}\n\n{sentence}\n\n{listed(root, chapter, notebooks)}\n"
        found.append((f"{chapter}/index.md", head + toctree([Path(page).stem for page in notebooks])))
    stages, runs, course = _notebooks(root, "nbs/stages", "*.ipynb"), run_notebooks(root), course_notebooks(root)
    text.append("## [Stages of the pipeline](nbs/stages/index.md)\n\nThe notebooks that the pipeline runs, as they are "
                "written, and as the last run left them.\n")
    entries = [f"{chapter}/index" for chapter in chapters(root)] + ["nbs/stages/index"]
    found.append(("notebooks.md", "\n".join(text) + "\n" + toctree(entries)))
    found.append(("nbs/stages/index.md", stage_list(root, stages, runs)))
    if course: found.append(("nbs/course/index.md", course_list(root, course)))
    return found


def stage_list(root, stages, runs):
    "The page of the stage notebooks, and of those that ran where the site was built."
    lists = Path(root, "docs/lists")
    last = (lists / ("run.md" if runs else "no_run.md")).read_text()
    if runs: last += "\n" + listed(root, ".", runs).replace("](", "](../../")
    entries = [Path(page).stem for page in stages] + [f"/{page.removesuffix('.ipynb')}" for page in runs]
    return f"{(lists / 'stages.md').read_text()}\n{listed(root, 'nbs/stages', stages)}\n{last}\n{toctree(entries)}"


def course_list(root, course):
    "The page of the course."
    entries = [str(Path(page).relative_to("nbs/course").with_suffix("")) for page in course]
    sentence = ("Lessons with exercises that check themselves. Answers are left out here; `make course` writes the "
                "notebooks in which students fill them in.")
    return f"# Course\n\n{sentence}\n\n{listed(root, 'nbs/course', course)}\n{toctree(entries)}"


def course_line(course):
    "A sentence about the course for the page *Start here*, where there is one."
    return "\n**[The course](nbs/course/index.md)** has lessons with exercises.\n" if course else ""


def front_navigation(course):
    "The navigation of the whole site, to be put under the front page."
    return "\n" + toctree([page for page in HEADER if course or page != "nbs/course/index"])


def modules(root):
    "{dotted name: file} of every public module of the library."
    files = [p for p in sorted(Path(root, "mmreid").rglob("*.py")) if not p.stem.startswith("_")]
    return {".".join(p.relative_to(root).with_suffix("").parts): p for p in files}


def api_pages(root):
    "[(page, text)]: the reference's first page, by room of the library, and one page for each module."
    known, found, rooms = modules(root), [], {}
    for name, file in known.items():
        source = file.read_text()
        edited = re.search(r"File to edit: (?:\.\./)*(nbs/\S+)\.ipynb", source)
        notebook = f"Explained and tested in :doc:`/{edited.group(1)}`.\n\n" if edited else ""
        text = f"{name}\n{'=' * len(name)}\n\n{notebook}.. automodule:: {name}\n"
        found.append((f"api/{name}.rst", text))
        sentence = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")[0].replace("\n", " ")
        rooms.setdefault(name.split(".")[1] if name.count(".") > 1 else "", []).append((name, sentence))
    text = [Path(root, "docs/lists/api.md").read_text()]
    for room, entries in sorted(rooms.items()):
        if room: text.append(f"## {room}\n")
        text.append("\n".join(f"- [`{name}`]({name}.rst): {sentence}" for name, sentence in entries) + "\n")
    found.append(("api/index.md", "\n".join(text) + "\n" + toctree(known)))
    return found


def as_text(app, what, name, obj, options, lines):
    "Sphinx's event `autodoc-process-docstring`: a docstring is plain text with `code` in it, so all else is escaped."
    def escaped(line):
        parts = re.split(r"`+([^`]+)`+", line.strip())
        return "".join(rf"\ ``{part}``\ " if number % 2 else re.sub(r"([\\*_|`])", r"\\\1", part)
                       for number, part in enumerate(parts))
    lines[:] = [re.sub("::$", r"\\::", escaped(line)) for line in lines]


def without_fields(app, what, name, obj, skip, options):
    "Sphinx's event `autodoc-skip-member`: the fields of a class are in its signature, with their types."
    is_field = what == "class" and not callable(obj) and not isinstance(obj, (property, cached_property))
    return True if is_field else None
