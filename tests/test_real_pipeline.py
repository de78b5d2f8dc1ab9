"RegDB and SYSU-MM01 through the pipeline, with the paper's profile made small: from a missing folder to the table of figures."
import json
import os
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, change_parameters, run, tracked
from real_trees import look_alikes

from mmreid.config import load_params
from mmreid.evaluation.measure import over_seeds, read_results
from mmreid.ranking.official import HEADLINE, headlines
from mmreid.report.claims import load_claims
from mmreid.report.verdicts import MeasuredTables, judge_figure


def shrink(value):
    "The paper's profile for a CPU and seconds, on RegDB's split 2."
    value |= {"profile": "paper", "datasets": ["regdb"], "run": ["full"], "seeds": [2]}
    paper = value["profiles"]["paper"]
    paper["rendered"] |= {"height": 96, "width": 48, "identities": {"train": 1, "val": 1, "test": 2}, "tuples": 2}
    paper["pack"] |= {"height": 96, "width": 32}
    paper["model"] |= {"backbone": "resnet10", "weights": "none", "width": 8}
    paper["train"] |= {"identities_per_batch": 3, "tuples_per_identity": 2, "steps": 3, "warmup_steps": 1, "validate_every": 2, "checkpoint_every": 2}
    paper["evaluate"]["resamples"] = 100
    paper["compute"] = {"threads": 1, "precision": "fp32"}


def repository(root, raw, change=shrink):
    "A copy of the working tree, with other parameters and the raw data of `raw` in place."
    for path in [*tracked(), "data/regdb", "data/sysu"]:
        if path.startswith("results/") or path == "dvc.lock" or (root / path).is_symlink(): continue
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, root / path, follow_symlinks=False)
    change_parameters(root, change)
    for tree in raw: shutil.copytree(tree, root / "data/raw" / tree.name, copy_function=os.link)
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-q", "-m", "copy"]): subprocess.run(["git", *words], cwd=root, check=True)
    return root


def test_missing_data_stop_with_one_sentence(tmp_path):
    root = repository(tmp_path / "tree", [])
    stopped = run("dvc", "repro", root=root)
    told = [line for line in stopped.stderr.splitlines() if line.startswith("error: ")]
    assert stopped.returncode != 0 and told == ["error: data/raw/RegDB: no such folder; put RegDB there: the folders Visible and Thermal, and idx with its forty lists "
                                                "(see nbs/8_real_datasets/06_real_datasets.ipynb)"]
    assert not (root / "data/packed").exists() and "Traceback" not in stopped.stderr


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    "RegDB from the raw data to the report by one command, then another of its splits and SYSU-MM01 as far as their figures."
    folder = tmp_path_factory.mktemp("pipeline")
    root = repository(folder / "tree", look_alikes(folder / "raw").values())
    assert set(repro(root)) == {"code", "render", "pack@regdb", "references@regdb", "train@regdb-full-2", "evaluate@regdb-full-2", "analyse@regdb-full-2", "report"}
    change_parameters(root, lambda value: value.update(seeds=[1, 2]))
    assert repro(root, "evaluate") == ["train@regdb-full-1", "evaluate@regdb-full-1"]
    change_parameters(root, lambda value: value.update(datasets=["sysu"], seeds=[2]))
    assert repro(root, "evaluate") == ["code", "pack@sysu", "train@sysu-full-2", "evaluate@sysu-full-2"]
    return root


def repro(root, *stages):
    "Run stages of the pipeline; returns the names of those that ran."
    made = run("dvc", "repro", *stages, root=root)
    assert made.returncode == 0, made.stdout + made.stderr
    return [line.split("'")[1] for line in made.stdout.splitlines() if line.startswith("Running stage")]


def measured(root): return {"regdb": pd.read_csv(root / "results/metrics.csv"), "sysu": pd.read_csv(root / "results/evaluations/sysu-full-2/metrics.csv")}


def rows(metrics, **values): return metrics[(metrics[list(values)].astype(str) == [str(v) for v in values.values()]).all(axis=1)]


def test_the_pipeline_measures_both_datasets(done):
    for dataset, metrics in measured(done).items():
        assert list(metrics)[:13] == "dataset profile variant protocol query gallery scenario seed metric value low high device".split()
        assert set(metrics.dataset) == {dataset} and set(metrics.protocol) == {"official", "paired"} and set(metrics.variant) == {"full"}
        row, = rows(metrics, metric="rank1", **HEADLINE[dataset]).itertuples()
        assert 0 <= row.low <= row.value <= row.high <= 100
        assert len(rows(metrics, protocol="official", metric="rank1")) == {"regdb": 2, "sysu": 8}[dataset] and len(rows(metrics, protocol="paired", metric="rank1")) == 9
        assert not metrics.metric.str.contains("re-ranked").any() and not metrics.scenario.str.contains("mirrored").any()
    assert len(rows(metrics, protocol="official", metric="rank1 deviation")) == 8


def test_splits_are_a_grid_and_results_aggregate(done):
    runs = [read_results(done / f"results/evaluations/regdb-full-{k}") for k in (1, 2)]
    divided = json.loads((done / "data/packed/regdb/packed.json").read_text())["info"]["runs"]
    for k, own in zip("12", runs): assert sorted(set(own.queries.identity)) == divided[k]["test"]
    together, head = over_seeds(runs, load_params(done / "params.yaml").chosen.evaluate), HEADLINE["regdb"]
    single = [rows(own.metrics, metric="rank1", **head).value.item() for own in runs]
    assert rows(together, seed="all", metric="rank1", **head).value.item() == pytest.approx(np.mean(single), abs=1e-3)
    assert rows(together, metric="rank1 deviation", **head).value.item() == pytest.approx(np.std(single, ddof=1), abs=1e-3)


def test_the_report_shows_official_and_paired_figures(done):
    table = (done / "results/tables/official.md").read_text()
    assert all(text in table for text in ("visible to thermal", "thermal to visible", "| official |", "| paired |"))


def test_claims_find_the_official_figures(done):
    "Exactly the row that the paper's tables report."
    claims = load_claims()
    for name, dataset in (("t2-proposed-regdb-rank1", "regdb"), ("t2-proposed-sysu-mAP", "sysu")):
        metrics, metric = measured(done)[dataset], claims[name].metric
        expected, = rows(metrics, metric=metric, **HEADLINE[dataset]).itertuples()
        assert len(rows(headlines(metrics), protocol="official", metric=metric)) == 1
        found, = judge_figure(claims[name], MeasuredTables(headlines(metrics)), claims)
        assert (found["measured"], found["low"], found["high"]) == (expected.value, expected.low, expected.high)
    book = pd.read_csv(done / "results/claims.csv")
    assert set(book[(book.kind == "figure") & (book.dataset == "regdb") & (book.variant == "full")].verdict) <= {"reproduced", "not reproduced"}


def test_nobody_was_held_out(done):
    "In the paper's profile all 395 identities of SYSU-MM01 train, and the model is the last."
    assert not list((done / "results/curves").glob("*/plots/metrics/val"))


def test_nothing_runs_twice(done): assert repro(done, "evaluate") == []


def test_tuples_are_analysed(done):
    assert set(pd.read_csv(done / "results/analyses/regdb-full-2/facts.csv").kind) >= {"lost", "noise", "probe", "weight"}


def test_the_walk_through_shows_what_is_there(done):
    "With both datasets in place; without any it runs among the other notebooks."
    path = done / "nbs/8_real_datasets/06_real_datasets.ipynb"
    made = run("python", "-m", "mmreid.pipeline.stages", "refresh", str(path), root=done)
    assert made.returncode == 0, made.stderr
    assert "no such folder" not in path.read_text() and path.read_text().count("image/png") == 2
