"Nothing is too long to be read at once: lines, functions, modules, the file of parameters."
import ast
import re

import nbformat
import pytest
from conftest import BIN, ROOT, run

INDEX = "mmreid/_modidx.py"       # a table that nbdev writes for itself
LINES = [str(BIN / "ruff"), "check", "--isolated", "--no-cache", "--select", "E501", "--line-length", "120",
         "--output-format", "concise"]
FUNCTIONS = [str(BIN / "lizard"), "-L", "40", "-C", "1000", "-w", "-x", "*/_modidx.py"]


def complaints(*words, root=ROOT):
    "The lines that a tool prints, whose exit status shows whether it has complaints."
    done = run(*words, root=root)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    summary = ("Found ", "All checks")
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith(summary)]
    assert (done.returncode == 0) == (not lines), done.stdout + done.stderr
    return lines


def names_of_nbdev(root):
    "The places `file:line:` of the list `__all__` of each module, which nbdev breaks into lines as it likes."
    for file in sorted((root / "mmreid").rglob("*.py")):
        text = file.read_text()
        found = re.search(r"^__all__ = \[[^]]*\]", text, re.MULTILINE)
        if not found: continue
        first = text.count("\n", 0, found.start()) + 1
        for line in range(first, first + found.group().count("\n") + 1): yield f"{file.relative_to(root)}:{line}:"


def long_lines(*paths, root=ROOT):
    "What ruff reports below `paths`, but for the lists that nbdev writes."
    known = (f"{INDEX}:", *names_of_nbdev(root))
    return [line for line in complaints(*LINES, *paths, root=root) if not line.startswith(known)]


def long_modules(folder):
    "The modules in `folder` of more than 250 lines, with their numbers of lines."
    files = [file for file in sorted(folder.rglob("*.py")) if file.name != "_modidx.py"]
    lines = {file.relative_to(folder): len(file.read_text().splitlines()) for file in files}
    return {str(file): number for file, number in lines.items() if number > 250}


def without_encoding(folder, but=()):
    "The places in `folder`, but for its folders `but`, where text is read or written in the encoding of the machine."
    for file in sorted(folder.rglob("*.py")):
        name = file.relative_to(folder)
        if name.parts[0] in but: continue
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or "encoding" in {word.arg for word in call.keywords}: continue
            given = [word.value for word in (*call.args, *(word.value for word in call.keywords))
                     if isinstance(word, ast.Constant)]
            text = isinstance(call.func, ast.Attribute) and call.func.attr in ("read_text", "write_text")
            opened = isinstance(call.func, ast.Name) and call.func.id == "open"
            if text or opened and not any("b" in str(mode) for mode in given): yield f"{name}:{call.lineno}"


def test_text_is_in_utf_8_on_every_machine(): assert [*without_encoding(ROOT / "mmreid", ("gallery",))] == []


@pytest.mark.parametrize("folder", ["mmreid", "tests", "nbs", "docs"])
def test_no_line_is_longer_than_120_characters(folder): assert long_lines(folder) == []


def test_no_function_is_longer_than_40_lines(): assert complaints(*FUNCTIONS, "mmreid") == []


def test_no_module_is_longer_than_250_lines(): assert long_modules(ROOT / "mmreid") == {}


def test_the_parameters_fit_150_lines(): assert len((ROOT / "params.yaml").read_text().splitlines()) <= 150


def test_faults_are_noticed(tmp_path):
    "The test of the tests: a long line in a module and in a notebook, a long function, a long module."
    (tmp_path / "mmreid").mkdir()
    long = f"x = {'1 + ' * 40}1"
    cells = [nbformat.v4.new_code_cell(source) for source in ("x = 1", long)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "mmreid/a.ipynb")
    names = "__all__ = ['a',\n" + f"           '{'b' * 120}']\n"
    body = "".join(f"    x = {n}\n" for n in range(40))
    (tmp_path / "mmreid/a.py").write_text(f"{names}{long}\n\ndef f():\n{body}{'#' * 10}\n" + "x = 1\n" * 210)
    places = [line.split(" ")[0] for line in long_lines("mmreid", root=tmp_path)]
    assert sorted(places) == ["mmreid/a.ipynb:cell", "mmreid/a.py:3:121:"]
    assert len(complaints(*FUNCTIONS, "mmreid", root=tmp_path)) == 1
    assert long_modules(tmp_path) == {"mmreid/a.py": 256}
    (tmp_path / "mmreid/a.py").write_text("path.read_text()\nopen(path, 'w')\nopen(path, 'rb')\nread_text(path)\n")
    assert [*without_encoding(tmp_path)] == ["mmreid/a.py:1", "mmreid/a.py:2"]
