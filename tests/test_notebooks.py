"Every notebook runs from top to bottom in a fresh kernel: one test each."
import ast

import pytest
from conftest import ROOT
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from mmreid.core import InputError
from mmreid.pipeline.stages import STAGES, check_parameters, flags_of, front_matter, kernel_manager, read_notebook, stage_code, without_flagged

PATHS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
STAGE_PATHS = [p for p in PATHS if p.parent.name == "stages"]
MODULE_PATHS = [p for p in PATHS if p.parent.name != "stages" and p.name != "index.ipynb"]
FLAGGED = [(p, flag) for p in MODULE_PATHS for flag in sorted(flags_of(read_notebook(p)))]


def name(value): return value.stem if hasattr(value, "stem") else value


def run_from_top(path, flags):
    notebook = read_notebook(path)
    matter = front_matter(notebook)
    if matter.get("skip_exec"): pytest.skip(matter["skip_reason"])
    client = NotebookClient(without_flagged(notebook, flags), timeout=600, kernel_manager_class=kernel_manager(), shutdown_kernel="immediate",
                            resources={"metadata": {"path": str(path.parent)}})
    try: client.execute()
    except CellExecutionError as error: pytest.fail(str(error), pytrace=False)


@pytest.mark.parametrize("path", MODULE_PATHS, ids=name)
def test_notebook(path):
    run_from_top(path, ())


@pytest.mark.parametrize("path, flag", FLAGGED, ids=name)
def test_flagged_cells(path, flag, flags):
    if flag not in flags: pytest.skip(f'cells marked {flag}: make test FLAGS="{flag}"')
    if flag == "cuda":
        import torch
        if not torch.cuda.is_available(): pytest.skip("cells marked cuda: no GPU here")
    run_from_top(path, [flag])


@pytest.mark.parametrize("path", STAGE_PATHS, ids=name)
def test_stage_notebook(path):
    "A stage runs in test_pipeline; here: its parameters cell is there, sets what it is given, and its code can be read."
    assert path.stem in STAGES
    check_parameters(path, read_notebook(path), [*STAGES[path.stem].arguments, "config"])
    ast.parse(stage_code(path, ROOT))


@pytest.mark.parametrize("path", PATHS, ids=name)
def test_kernel(path):
    "Whoever opens a notebook gets the environment's own kernel."
    assert read_notebook(path).metadata.kernelspec.name == "python3"


def test_every_stage_has_a_notebook():
    assert {p.stem for p in STAGE_PATHS} == {stage.notebook or name for name, stage in STAGES.items()}


def test_a_failing_notebook_is_noticed(tmp_path):
    "The test of the test: an assertion that does not hold fails it."
    import nbformat
    path = tmp_path / "wrong.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 == 2")]), path)
    with pytest.raises(pytest.fail.Exception, match="AssertionError"): run_from_top(path, ())
    with pytest.raises(InputError, match="0 cells are tagged"): check_parameters(path, read_notebook(path), ["config"])
