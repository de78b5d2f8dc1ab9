"README.md shows what the repository contains."
import re
from pathlib import Path

from conftest import ROOT, run, tracked


def test_readme_is_index_with_the_present_results(tree):
    written = (ROOT / "README.md").read_text()
    (tree / "README.md").unlink()
    done = run("python", "-m", "mmreid.pipeline", "readme", root=tree)
    assert done.returncode == 0, done.stderr
    assert (tree / "README.md").read_text() == written


def test_what_the_readme_points_at_is_in_git():
    links = re.findall(r"\]\(([^)#\s]+)", (ROOT / "README.md").read_text())
    local = {link.rstrip("/") for link in links if not re.match(r"\w+:", link)}
    known = {part for path in map(Path, tracked()) for part in (path.as_posix(), *map(str, path.parents))}
    assert local and sorted(local - known) == []


def test_commands_in_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", (ROOT / "README.md").read_text())) <= targets
