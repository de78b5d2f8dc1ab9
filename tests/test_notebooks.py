"Every notebook runs from top to bottom in a fresh kernel, and shows what it then shows: one test each."
import ast
import re
import subprocess
import sys

import nbformat
import pytest
from conftest import GPUS, ROOT, tracked
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from mmreid.core import InputError
from mmreid.pipeline.code import read_notebook, stage_code
from mmreid.pipeline.notebooks import check_parameters, flags_of, front_matter, settle, without_flagged
from mmreid.pipeline.stages import STAGES

MODULE_PATHS = sorted(ROOT.glob("nbs/[0-9]*/*.ipynb"))
STAGE_PATHS = sorted(ROOT.glob("nbs/stages/*.ipynb"))
COURSE_PATHS = sorted(ROOT.glob("nbs/course/*.ipynb"))      # run in test_course
DEMO = ROOT / "nbs/demo.ipynb"      # runs in test_demo
START = ROOT / "nbs/start.ipynb"
PATHS = [*MODULE_PATHS, *STAGE_PATHS, *COURSE_PATHS, DEMO, START, ROOT / "nbs/index.ipynb"]
FLAGGED = [(p, flag) for p in MODULE_PATHS for flag in sorted(flags_of(read_notebook(p)))]
ADDRESS = re.compile(r"0x[0-9a-f]+")
LINK = re.compile(r"\]\(([^)#\s]+)")


def name(value): return f"{value.parent.name}/{value.stem}" if hasattr(value, "stem") else value


def executed(path, flags, kernels):
    "The notebook at `path` after a run from the top, without the cells that need a flag not among `flags`."
    notebook = read_notebook(path)
    matter = front_matter(notebook)
    if matter.get("skip_exec"): pytest.skip(matter["skip_reason"])
    client = NotebookClient(without_flagged(notebook, flags), timeout=600, kernel_manager_class=kernels,
                            shutdown_kernel="immediate", resources={"metadata": {"path": str(path.parent)}})
    try: return settle(client.execute())
    except CellExecutionError as error: pytest.fail(str(error), pytrace=False)


def texts(outputs):
    "The text that a cell printed or showed, without addresses of objects."
    text = lambda out: out.text if out.output_type == "stream" else out.get("data", {}).get("text/plain", "")
    return [ADDRESS.sub("0x", text(out)) for out in outputs]


def stale(path, done):
    "The cells of the notebook at `path` whose saved text is not that of the run `done`: id -> (saved, found)."
    code = lambda notebook: [cell for cell in notebook.cells if cell.cell_type == "code"]
    saved = {cell.id: texts(cell.outputs) for cell in code(settle(read_notebook(path)))}
    found = {cell.id: texts(cell.outputs) for cell in code(done) if "machine" not in cell.metadata.get("tags", [])}
    return {cell: (saved[cell], found[cell]) for cell in found if saved[cell] != found[cell]}


@pytest.mark.parametrize("path", MODULE_PATHS, ids=name)
def test_notebook(path, kernels):
    """A module notebook runs, and the text that it shows is the text that is saved in it.

    Cells whose text depends on the machine (times, its processor's last bits) are tagged `machine`."""
    assert stale(path, executed(path, (), kernels)) == {}


@pytest.mark.parametrize("path, flag", FLAGGED, ids=name)
def test_flagged_cells(path, flag, flags, kernels, monkeypatch):
    if flag not in flags: pytest.skip(f'cells marked {flag}: make test FLAGS="{flag}"')
    if flag == "cuda":
        show_gpus(monkeypatch)
        asked = subprocess.run([sys.executable, "-c", "import torch; print(torch.cuda.is_available())"],
                               capture_output=True, text=True, check=True)
        if asked.stdout.strip() != "True": pytest.skip("cells marked cuda: no GPU here")
    executed(path, [flag], kernels)


def show_gpus(monkeypatch):
    "Let what is started from now on see the GPUs that conftest hides."
    for name, value in GPUS.items():
        if value is None: monkeypatch.delenv(name)
        else: monkeypatch.setenv(name, value)


@pytest.mark.parametrize("path", STAGE_PATHS, ids=name)
def test_stage_notebook(path):
    "A stage runs in test_pipeline; here: its parameters cell sets what it is given, and its code can be read."
    assert path.stem in STAGES
    check_parameters(path, read_notebook(path), [*STAGES[path.stem].arguments, "config"])
    ast.parse(stage_code(path, ROOT))


@pytest.mark.parametrize("path", PATHS, ids=name)
def test_kernel(path):
    "A notebook opens with the environment's own kernel."
    assert read_notebook(path).metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("path", PATHS, ids=name)
def test_links(path):
    "Every relative link in a notebook leads to a file or a folder of the repository."
    prose = "\n".join(cell.source for cell in read_notebook(path).cells if cell.cell_type == "markdown")
    start = ROOT if path.name == "index.ipynb" else path.parent      # the index becomes README.md
    assert broken(prose, start) == []


def broken(text, folder):
    "The relative links in Markdown, read in `folder`, that lead to nothing that git tracks."
    local = [link for link in LINK.findall(text) if not re.match(r"\w+:", link)]
    known = {ROOT / path for path in tracked()}
    known |= {parent for path in known for parent in path.parents}
    return [link for link in local if (folder / link).resolve() not in known]


def test_broken_links_are_noticed():
    "The test of the test, and what is no link to a file."
    text = "[a](02_b.ipynb) [m](../1_ranking/01_metrics.ipynb#top) [web](https://a.org) [part](#part) [folder](..)"
    assert broken(text, ROOT / "nbs/1_ranking") == ["02_b.ipynb"]


def test_all_notebooks_are_in_these_lists():
    "Each lies in a chapter, among the stages, in the course, or is the demo, the start page or the index."
    assert {ROOT / path for path in tracked() if path.endswith(".ipynb")} == set(PATHS)


def test_the_start_page_lists_every_notebook():
    "By its title: JupyterLab opens with this page."
    text = "".join(cell.source for cell in read_notebook(START).cells)
    title = lambda path: next(re.match("# (.*)", cell.source) for cell in read_notebook(path).cells
                              if cell.cell_type == "markdown" and cell.source.startswith("# ")).group(1)
    expected = [f"[{title(path)}]({path.relative_to(START.parent)})" for path in PATHS[:-2]]
    assert [link for link in expected if link not in text] == []


def test_every_stage_has_a_notebook():
    assert {p.stem for p in STAGE_PATHS} == {stage.notebook or name for name, stage in STAGES.items()}


def test_a_failing_notebook_is_noticed(tmp_path, kernels):
    "The test of the test: an assertion that does not hold fails it."
    path = tmp_path / "wrong.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 == 2")]), path)
    with pytest.raises(pytest.fail.Exception, match="AssertionError"): executed(path, (), kernels)
    with pytest.raises(InputError, match="0 cells are tagged"): check_parameters(path, read_notebook(path), ["config"])


def test_stale_outputs_are_noticed(tmp_path, kernels):
    "The test of the test: a saved text that the run does not show, unless its cell is tagged `machine`."
    path = tmp_path / "stale.ipynb"
    old = [nbformat.v4.new_output("stream", text="41\n")]
    cells = [nbformat.v4.new_code_cell("print(6 * 7)", outputs=old, id="stale"), nbformat.v4.new_code_cell("object()"),
             nbformat.v4.new_code_cell("print(6 * 8)", outputs=old, metadata={"tags": ["machine"]})]
    shown = nbformat.v4.new_output("execute_result", {"text/plain": "<object at 0x7f0000000000>"})
    cells[1].outputs = [shown]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert stale(path, executed(path, (), kernels)) == {"stale": (["41\n"], ["42\n"])}
