"Each lesson as its lecturer and its students have it: solved it has all points, empty it has none."
import ast

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from test_notebooks import name, stale

pytest.importorskip("nbgrader", reason="the extra `course` is not installed")

from mmreid.course.editions import lessons, release     # noqa: E402 (needs nbgrader)
from mmreid.pipeline.notebooks import settle     # noqa: E402

COURSE = ROOT / "nbs/course"
LESSONS = lessons(COURSE)
EXERCISES = 3


def grader(cell): return cell.metadata.get("nbgrader", {})


def errors(notebook):
    "The cells that ended with an error: id -> its message."
    return {cell.id: out.evalue for cell in notebook.cells for out in cell.get("outputs", [])
            if out.output_type == "error"}


@pytest.fixture(scope="session")
def editions(tmp_path_factory):
    "{lesson: its student edition}, as they are handed out."
    paths = release(COURSE, tmp_path_factory.mktemp("course") / "release")
    return {path.stem: nbformat.read(path, 4) for path in paths}


def twice(master, edition):
    """The master with each of its exercises twice: as it is handed out, then solved.

    The cells of the first time are called `empty-…`."""
    handed_out, cells, waiting = {cell.id: cell for cell in edition.cells}, [], []
    for cell in master.cells:
        if grader(cell):
            waiting.append(cell)
            if not grader(cell)["grade"]: continue
            for own in waiting: cells.append(handed_out[own.id].copy() | {"id": f"empty-{own.id}"})
            cells += waiting
            waiting = []
        else: cells.append(cell)
    return nbformat.NotebookNode(master | {"cells": [nbformat.from_dict(cell) for cell in cells]})


@pytest.fixture(scope="module", params=LESSONS.values(), ids=name)
def done(request, editions, kernels):
    "(path of a lesson, the notebook `twice` as it ran)."
    path = request.param
    notebook = twice(nbformat.read(path, 4), editions[path.stem])
    client = NotebookClient(notebook, timeout=600, allow_errors=True, kernel_manager_class=kernels,
                            shutdown_kernel="immediate", resources={"metadata": {"path": str(path.parent)}})
    return path, settle(client.execute())


def test_a_solved_lesson_has_all_points_and_an_empty_one_none(done):
    "No cell fails but the checks of empty answers, and each of those does."
    path, notebook = done
    checks = {cell.id: grader(cell)["points"] for cell in nbformat.read(path, 4).cells if grader(cell).get("grade")}
    assert errors(notebook).keys() == {f"empty-{check}" for check in checks}
    assert len(checks) >= EXERCISES and 10 <= sum(checks.values()) <= 20


def test_a_lesson_shows_what_is_saved_in_it(done):
    "The text that cells print, but for those tagged `machine`."
    path, notebook = done
    notebook.cells = [cell for cell in notebook.cells if not cell.id.startswith("empty-")]
    assert stale(path, notebook) == {}


def defined(cells):
    "The names that code cells define at their top level."
    found = set()
    for node in (node for cell in cells for node in ast.parse(cell.source).body):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): found.add(node.name)
        if isinstance(node, ast.Assign): found |= {n.id for t in node.targets for n in ast.walk(t) if hasattr(n, "id")}
    return found


@pytest.mark.parametrize("path", LESSONS.values(), ids=name)
def test_who_is_stuck_can_go_on(path):
    "No cell outside an exercise uses what only an answer defines."
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    answers = [cell for cell in code if grader(cell).get("solution")]
    others = [cell for cell in code if not grader(cell)]
    used = {node.id for cell in others for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)}
    assert used & (defined(answers) - defined(others)) == set()


@pytest.mark.parametrize("path", LESSONS.values(), ids=name)
def test_a_lesson_has_all_its_parts(path):
    "Goals, prerequisites, time; exercises with a hint and an answer each; a quiz; what was learned; further reading."
    cells = nbformat.read(path, 4).cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for part in ("# Lesson", "Goals", "Prerequisites", "Time", "## What was learned", "## Further reading"):
        assert part in prose, part
    answers = [cell for cell in cells if grader(cell).get("solution")]
    assert EXERCISES <= len(answers) <= 6
    assert all("### BEGIN SOLUTION" in cell.source for cell in answers)
    assert prose.count("<summary>") >= len(answers)
    assert any("display_quiz(" in cell.source for cell in cells if cell.cell_type == "code")
    assert sum("image/png" in out.get("data", {}) for cell in cells for out in cell.get("outputs", [])) >= 3


def test_student_editions(editions):
    "Every lesson is handed out, without an answer, a hidden check or an output."
    assert list(editions) == list(LESSONS) and len(editions) == 8
    for notebook in editions.values():
        text = nbformat.writes(notebook)
        assert "SOLUTION" not in text and "HIDDEN TESTS" not in text and "NotImplementedError" in text
        assert not [cell.id for cell in notebook.cells if cell.get("outputs")]


def test_the_lecturer_s_page_names_every_lesson():
    text = (COURSE / "00_lecturer.ipynb").read_text()
    assert [path.name for path in LESSONS.values() if path.name not in text] == []
