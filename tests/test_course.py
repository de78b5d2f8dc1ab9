"Each lesson as its lecturer and its students have it: solved it has all points, empty it has none."
import ast
import linecache

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from test_notebooks import name, stale

pytest.importorskip("nbgrader", reason="the extra `course` is not installed")

from mmreid.course.editions import ADVICE, lessons, release     # noqa: E402 (needs nbgrader)
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
    assert any(cell.source == f'solved.quiz("{path.stem}")' for cell in cells)
    assert sum("image/png" in out.get("data", {}) for cell in cells for out in cell.get("outputs", [])) >= 3


def test_student_editions(editions):
    "Every lesson is handed out, without an answer, a hidden check or an output."
    assert list(editions) == list(LESSONS) and len(editions) == 8
    for notebook in editions.values():
        text = nbformat.writes(notebook)
        assert "SOLUTION" not in text and "HIDDEN TESTS" not in text and "NotImplementedError" in text
        assert not [cell.id for cell in notebook.cells if cell.get("outputs")]
        assert notebook.cells[0].source.startswith("# Lesson") and notebook.cells[1].source == ADVICE
        assert "Notes for the teacher" not in text and '\\"correct\\"' not in text       # as a quiz has it


@pytest.mark.parametrize("path", LESSONS.values(), ids=name)
def test_every_check_says_what_it_asks(path):
    "The hidden ones, too: a student sees the text on the feedback page."
    checks = [cell for cell in nbformat.read(path, 4).cells if grader(cell).get("grade")]
    silent = [ast.unparse(node) for cell in checks for node in ast.walk(ast.parse(cell.source))
              if isinstance(node, ast.Assert) and node.msg is None]
    assert silent == []


WRONG = {
    "people in proportion to their queries": ("01_what_is_reid", "bootstrap", [], """
def bootstrap_over_people(values, identities, resamples, random):
    values, identities, found = np.asarray(values), np.asarray(identities), []
    for _ in range(resamples):
        drawn = random.choice(identities, len(np.unique(identities)))
        found.append(np.concatenate([values[identities == name] for name in drawn]).mean())
    return np.array(found)""", "each PERSON"),
    "a person without a rest": ("02_seeing", "contrast", [], """
def person_contrast(image, mask):
    person, rest = image[mask].astype(float), image[~mask].astype(float)
    if not len(person): return float("nan")
    if not len(rest): return 0.
    spread = (person.std() + rest.std()) / 2
    return float((person.mean() - rest.mean()) / spread) if spread else 0.""", "no pixel of the rest"),
    "two flat areas": ("02_seeing", "contrast", [], """
def person_contrast(image, mask):
    person, rest = image[mask].astype(float), image[~mask].astype(float)
    if not len(person) or not len(rest): return float("nan")
    if image.std() == 0: return 0.
    with np.errstate(divide="ignore"): return 2 * (person.mean() - rest.mean()) / (person.std() + rest.std())""",
                       "both deviations are 0"),
    "a loop over images": ("03_metric_learning", "hardest", [], """
def hardest(distance, identity):
    near, far = [], []
    for a in range(len(identity)):
        same = identity == identity[a]
        same[a] = False
        near.append(distance[a][same].max() if same.any() else torch.tensor(-torch.inf))
        other = identity != identity[a]
        far.append(distance[a][other].min() if other.any() else torch.tensor(torch.inf))
    return torch.stack(near), torch.stack(far)""", "without a loop"),
    "the same shuffle every time": ("05_attention", "5", [], """
def permutation_test(A, labels, shuffles, seed):
    t, found = solved.share_between(A, labels), 1
    for _ in range(shuffles):
        found += solved.share_between(A, np.random.default_rng(seed).permutation(labels)) >= t
    return t, found / (1 + shuffles)""", "every shuffle must be another one"),
    "labels with replacement": ("05_attention", "5", [], """
def permutation_test(A, labels, shuffles, seed):
    rng, centred = np.random.default_rng(seed), A - A.mean(0)
    def share(labels):
        groups = [centred[labels == s] for s in np.unique(labels)]
        return sum(len(g) * (g.mean(0) ** 2).sum() for g in groups) / (centred ** 2).sum()
    t = share(labels)
    return t, (1 + sum(share(rng.choice(labels, len(labels))) >= t for _ in range(shuffles))) / (1 + shuffles)""",
                                "how often each label occurs"),
    "ties not counted": ("05_attention", "5", [], """
def permutation_test(A, labels, shuffles, seed):
    t, rng = solved.share_between(A, labels), np.random.default_rng(seed)
    more = sum(solved.share_between(A, rng.permutation(labels)) > t for _ in range(shuffles))
    return t, (1 + more) / (1 + shuffles)""", "p is 1"),
    "a sum over pairs": ("06_fusion", "4", [], """
def scalar_correlation(r, W):
    M = range(len(r))
    return sum(W[m, n] * torch.cat([r[m], r[n]]) for m in M for n in M)""", "without a loop"),
    "a logarithm that is cut off": ("07_min_max", "exercise-1", [], """
def uniform_aim(logits):
    return -(logits.softmax(1) + 1e-9).log().mean()""", "neither infinite nor cut off"),
    "D that learns on the network's graph": ("07_min_max", "exercise-2", ["aims", "toy"], """
def play_round(features, judge, of_judge, of_network, kind, aim, rounds=1):
    for _ in range(rounds):
        of_judge.zero_grad()
        F.cross_entropy(judge(features()), kind).backward()
        of_judge.step()
    of_network.zero_grad()
    aim(judge(features()), kind).backward()
    of_network.step()
    of_judge.zero_grad()""", "detach the points"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_a_plausible_wrong_answer_fails_its_check(case):
    "With the message that names the fault, before any check that needs the lesson's images."
    lesson, exercise, before, answer, message = case
    cells = {cell.id: cell.source for cell in nbformat.read(LESSONS[lesson], 4).cells}
    check = next(cells[one] for one in (f"{exercise}-check", f"check-{exercise}") if one in cells)
    names = {}
    linecache.cache["<answer>"] = len(answer), None, answer.splitlines(True), "<answer>"
    for source in (cells["imports"], *(cells[one] for one in before)): exec(source, names)
    exec(compile(answer, "<answer>", "exec"), names)
    with pytest.raises(AssertionError, match=message): exec(check, names)


def test_the_lecturer_s_page_names_every_lesson():
    text = (COURSE / "00_lecturer.ipynb").read_text()
    assert [path.name for path in LESSONS.values() if path.name not in text] == []
