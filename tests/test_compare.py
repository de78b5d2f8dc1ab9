"Comparisons and sweeps, on a pipeline of a handful of people."
import re
import shutil
import subprocess

import pandas as pd
import pytest
from conftest import commit, git, repro, run
from test_pipeline import RESULTS
from test_site import CHROMIUM

MMREID = ("python", "-c", "import sys; from mmreid.app import main; sys.exit(main())")


@pytest.fixture(scope="module")
def two(first, tmp_path_factory):
    "A repository whose last commit changed a loss of one variant, and with that its figures."
    root = tmp_path_factory.mktemp("two") / "tree"
    shutil.copytree(first, root, symlinks=True)
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("modal_consistency: 0.1", "modal_consistency: 0.7"))
    repro(root)
    commit(root, "another weight")
    return root


def compared(root, *sides):
    "What `mmreid compare` prints; its exit status is 0."
    done = run(*MMREID, "compare", *sides, root=root)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_exactly_what_changed_is_shown(two):
    text = compared(two, "HEAD~1", "HEAD")
    assert "variants.full.losses.modal_consistency: 0.1 → 0.7" in text and text.count("→") == 1
    assert re.findall(r"^  rendered (\S+): \d+ of \d+ figures differ$", text, re.MULTILINE) == ["full"]
    assert "people: the same people" in text and "fused  rank1" in text
    assert max(map(len, text.splitlines())) <= 100
    page = (two / "build/compare.html").read_text()
    assert page.count("data:image/png") >= 2 and not re.search(r'(src|href)="http', page)


def test_identical_sides(two):
    assert "nothing differs" in compared(two, "HEAD", "HEAD") and "nothing differs" in compared(two)


def test_intervals_serve_where_queries_are_missing(two, tmp_path):
    "A clone has the tables of every commit, and no cache."
    git(two, "clone", "-q", str(two), str(tmp_path / "clone"))
    text = compared(tmp_path / "clone", "HEAD~1", "HEAD")
    assert "intervals: from the intervals of both sides" in text and "people: the same" not in text


def test_a_commit_without_results_is_named(two):
    bare = git(two, "rev-list", "--max-parents=0", "HEAD").stdout.strip()
    done = run(*MMREID, "compare", bare, root=two)
    assert done.returncode == 2 and f"{bare}: no {RESULTS}/metrics.csv; to get it: git checkout {bare}" in done.stderr


def test_two_folders_of_results(two):
    shutil.copytree(two / RESULTS, two / "results/other", dirs_exist_ok=True)
    table = pd.read_csv(two / "results/other/metrics.csv", dtype=str, keep_default_na=False)
    table[table.variant == "full"].to_csv(two / "results/other/metrics.csv", index=False)
    text = compared(two, RESULTS, "results/other")
    assert re.findall(r"^  rendered (\S+): only in A$", text, re.MULTILINE) == ["background", "frozen", "histogram"]
    shutil.rmtree(two / "results/other")


def test_a_sweep_leaves_experiments_and_a_table(two):
    words = ("sweep", "variants.full.losses.modal_consistency", "0.5", "--seeds", "1,2")
    done = run(*MMREID, *words, root=two)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(two / "build/sweep-modal-consistency.csv")
    assert table.value.unique().tolist() == [0.5] and set(table.runs) == {2}
    assert set(table.figure) == {"fused", "side by side", "cross-modal"} and len(table) == 3 * 2
    assert (two / "build/sweep-modal-consistency.png").stat().st_size > 5000
    assert git(two, "status", "--porcelain").stdout == ""
    again = run(*MMREID, *words, root=two)           # nothing is trained again
    assert again.returncode == 0 and again.stdout == done.stdout
    other = run(*MMREID, *words[:-1], "1", root=two)
    assert other.returncode == 2 and "seeds is [1, 2] there, [1] here" in other.stderr
    text = compared(two, "HEAD", "modal-consistency-0.5")       # test people there, validation people here
    assert "rendered full: 4 of 4 figures differ" in text and text.count("other people") == 4


def test_plots_open_without_a_network(two):
    assert run("python", "-m", "mmreid.compare.plots", root=two).returncode == 0
    done = run("dvc", "plots", "diff", "HEAD~1", "HEAD", "-o", "build/plots", root=two)
    assert done.returncode == 0, done.stderr
    page = two / "build/plots/index.html"
    assert not re.search(r'<(script|link)[^>]+(src|href)="http', page.read_text())
    if CHROMIUM is None: pytest.skip("no Chromium is installed")
    words = [CHROMIUM, "--headless", "--no-sandbox", "--dump-dom", "--virtual-time-budget=8000", str(page)]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert shown.stdout.count("<canvas") + shown.stdout.count("<svg") >= 2, shown.stderr[-2000:]
