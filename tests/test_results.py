"What git holds of the results is little, and what DVC prints of it fits a terminal."
import json

import pytest
from conftest import ROOT, run, tracked

TABLES = ("metrics.csv",)      # tidy tables of every figure, which may be large


def sizes(root=ROOT):
    "{path: bytes} of the results that git tracks or would track."
    return {path: (root / path).stat().st_size for path in tracked(root) if path.startswith("results/")}


def faults(sizes):
    "What is too large among results {path: bytes}, in words."
    large = [p for p, size in sizes.items() if size > 300_000 and not p.endswith(tuple(f"/{t}" for t in TABLES))]
    found = [f"{path}: more than 300 kB" for path in large]
    if len(sizes) > 120: found.append(f"{len(sizes)} files, more than 120")
    if sum(sizes.values()) > 5_000_000: found.append(f"{sum(sizes.values())} bytes, more than 5 MB")
    return found


def test_results_in_git_are_few_and_small(): assert faults(sizes()) == []


def test_faults_are_noticed():
    "The test of the test."
    assert faults({"results/quick/metrics.csv": 4_000_000, "results/quick/people.png": 300_000}) == []
    assert len(faults({"results/quick/people.png": 300_001})) == 1
    assert len(faults({f"results/quick/runs/{n}.json": 50_000 for n in range(121)})) == 2


COMMANDS = [("dvc", "metrics", "diff"), ("dvc", "params", "diff"), ("make", "-o", "setup", "experiments")]


@pytest.fixture
def runs(tree):
    "The headline metrics in a copy of the tree: one file per run."
    found = sorted(tree.glob("results/*/runs/*.json"))
    assert found
    return found


def printed(root, words):
    "The lines that a command prints in `root`."
    done = run(*words, root=root)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def change_line(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def wide(lines): return [line for line in lines if len(line) > 120]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_tables_of_dvc_fit_a_terminal(tree, runs, words):
    "At the commit, and after an experiment has changed one parameter and every metric."
    assert wide(printed(tree, words)) == []
    for number, path in enumerate(runs):
        values = json.loads(path.read_text())
        for protocol in ("fused", "cross_modal", "official"):
            if protocol in values: values[protocol] = {"rank1": 12.3456 + number, "mAP": 100.0}
        path.write_text(json.dumps(values))
    change_line(tree / "params.yaml", "channel_exchange_probability: 0.5}", "channel_exchange_probability: 0.25}")
    lines = printed(tree, words)
    expected = "channel_exchange_probability" if "params" in words else "fused.rank1"
    assert any(expected in line for line in lines) and wide(lines) == []
