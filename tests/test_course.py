"Each lesson as its lecturer and its students have it: marked by nbgrader once solved and once empty."
import nbformat
import pytest
from conftest import ROOT
from test_notebooks import name, stale

pytest.importorskip("nbgrader", reason="the extra `course` is not installed")

from mmreid.course.editions import grading, lessons, mark, release     # noqa: E402 (needs nbgrader)
from mmreid.pipeline.notebooks import settle     # noqa: E402

COURSE = ROOT / "nbs/course"
LESSONS = lessons(COURSE)
EXERCISES = 3


def grader(cell): return cell.metadata.get("nbgrader", {})


def solved(edition, master):
    "The student edition with the answers of its master."
    answers = {cell.id: cell.source for cell in master.cells if grader(cell).get("solution")}
    for cell in edition.cells: cell.source = answers.get(cell.id, cell.source)
    return edition


def errors(notebook):
    "The cells that ended with an error: id -> its message."
    return {cell.id: out.evalue for cell in notebook.cells for out in cell.get("outputs", [])
            if out.output_type == "error"}


@pytest.fixture(scope="module", params=LESSONS.values(), ids=name)
def marked(request, tmp_path_factory):
    "(path, {student: (row of marks, notebook after marking)}) of a lesson with two students, *solved* and *empty*."
    path, out, found = request.param, tmp_path_factory.mktemp("marks"), {}
    with grading({path.stem: path}) as (nbgrader, root):
        edition = root / "release" / path.stem / path.name
        master = nbformat.read(path, 4)
        for student in ("solved", "empty"):
            target = root / "submitted" / student / path.stem / path.name
            target.parent.mkdir(parents=True)
            work = nbformat.read(edition, 4)
            nbformat.write(solved(work, master) if student == "solved" else work, target)
            row = mark(nbgrader, root, out, student, path.stem)
            found[student] = row, nbformat.read(root / "autograded" / student / path.stem / path.name, 4)
    return path, found


def test_a_right_submission_has_full_marks(marked):
    "And no cell of the solved lesson fails."
    row, notebook = marked[1]["solved"]
    assert row["note"] == "" and errors(notebook) == {}
    assert row["points"] == row["max"] >= 10


def test_an_empty_submission_has_no_marks(marked):
    "Every check fails in it, and no cell outside the exercises does."
    path, found = marked
    (row, notebook), master = found["empty"], nbformat.read(path, 4)
    checks = {cell.id for cell in master.cells if grader(cell).get("grade")}
    assert row["points"] == 0 and len(checks) >= EXERCISES
    assert checks <= errors(notebook).keys()
    assert errors(notebook).keys() <= {cell.id for cell in master.cells if grader(cell)}


def test_a_lesson_shows_what_is_saved_in_it(marked):
    "The text that cells print, but for those tagged `machine`."
    path, found = marked
    assert stale(path, settle(found["solved"][1])) == {}


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


def test_student_editions(tmp_path):
    "Every lesson is handed out, without an answer, a hidden check or an output."
    paths = release(COURSE, tmp_path / "release")
    assert [path.stem for path in paths] == list(LESSONS) and len(paths) == 8
    for path in paths:
        notebook = nbformat.read(path, 4)
        text = path.read_text()
        assert "SOLUTION" not in text and "HIDDEN TESTS" not in text and "NotImplementedError" in text
        assert not [cell.id for cell in notebook.cells if cell.get("outputs")]


def test_the_lecturer_s_page_names_every_lesson():
    text = (COURSE / "00_lecturer.ipynb").read_text()
    assert [path.name for path in LESSONS.values() if path.name not in text] == []
