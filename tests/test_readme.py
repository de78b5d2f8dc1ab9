"README.md says what the repository holds."
import re

import pytest
from conftest import ROOT, run, tracked

pytestmark = pytest.mark.skipif(not (ROOT / "nbs/index.ipynb").exists(), reason="nbs/index.ipynb is not written yet")


def test_readme_is_index_with_the_present_results(tree):
    written = (ROOT / "README.md").read_text()
    (tree / "README.md").unlink()
    done = run("python", "-m", "mmreid.pipeline.stages", "readme", root=tree)
    assert done.returncode == 0, done.stderr
    assert (tree / "README.md").read_text() == written


def test_what_the_readme_points_at_is_in_git():
    links = re.findall(r"\]\(([^)#\s]+)", (ROOT / "README.md").read_text())
    local = [link for link in links if not re.match(r"\w+:", link)]
    files = set(tracked())
    assert local and [link for link in local if link not in files and not any(f.startswith(link.rstrip("/") + "/") for f in files)] == []


def test_commands_in_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", (ROOT / "README.md").read_text())) <= targets
