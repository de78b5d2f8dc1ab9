"RegDB and SYSU-MM01 through the pipeline, with the paper's profile made small: from a missing folder to the tables."
import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, change_parameters, commit, copy_of_the_tree, repro, run
from real_trees import look_alikes

from mmreid.evaluation.measure import COLUMNS
from mmreid.evaluation.results import over_seeds, read_results
from mmreid.methods.registry import load_params
from mmreid.ranking.official import HEADLINE, headlines
from mmreid.report.claims import load_claims
from mmreid.report.verdicts import MeasuredTables, judge_figure

RESULTS = "results/paper"
EVALUATED = ("evaluate@regdb-full-1", "evaluate@sysu-full-2")
TRAINING = dict(batch_identities=3, batch_tuples=2, steps=3, warmup_steps=1, validate_every=2, checkpoint_every=2)


def shrink(value):
    "The paper's profile for a CPU and seconds, on RegDB's split 2."
    value |= {"profile": "paper", "datasets": ["regdb"], "seeds": [2]}
    value |= {"main_variants": ["full"], "analysed_variants": ["full"]}
    paper = value["profiles"]["paper"]
    paper["rendered"] |= {"height": 96, "width": 48, "identities": {"train": 1, "val": 1, "test": 2}, "tuples": 2}
    paper["pack"] |= {"height": 96, "width": 32}
    paper["model"] |= {"backbone": "resnet10", "weights": "none", "branch_dim": 8}
    paper["train"] |= TRAINING
    paper["evaluate"] = {"resamples": 100}
    paper["compute"] = {"threads": 1, "precision": "fp32"}


def repository(root, raw, change=shrink):
    "A copy of the working tree, with other parameters and the raw data of `raw` in place."
    copy_of_the_tree(root, without=("results/", "dvc.lock", "study/dvc.lock"))
    (root / "data").mkdir(exist_ok=True)
    for link in ("data/regdb", "data/sysu"): shutil.copy2(ROOT / link, root / link, follow_symlinks=False)
    change_parameters(root, change)
    for tree in raw: shutil.copytree(tree, root / "data/raw" / tree.name, copy_function=os.link)
    commit(root)
    return root


def test_missing_data_stop_with_one_sentence(tmp_path):
    root = repository(tmp_path / "tree", [])
    stopped = run("dvc", "repro", root=root)
    told = [line for line in stopped.stderr.splitlines() if line.startswith("error: ")]
    remedy = ("put RegDB there: the folders Visible and Thermal, and idx with its forty lists "
              "(see nbs/8_real_datasets/06_real_datasets.ipynb)")
    assert stopped.returncode != 0 and told == [f"error: data/raw/RegDB: no such folder; {remedy}"]
    assert not (root / "data/packed").exists() and "Traceback" not in stopped.stderr


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """RegDB from the raw data to the report by one command.

    Then another of its splits, and SYSU-MM01 as far as its evaluation."""
    folder = tmp_path_factory.mktemp("pipeline")
    root = repository(folder / "tree", look_alikes(folder / "raw").values())
    on = lambda name, *stages: [f"{stage}@{name}" for stage in stages]
    stages = ("train", "evaluate", "analyse")
    expected = {"prepare", "render", *on("regdb", "pack", "references"), *on("regdb-full-2", *stages), "report"}
    assert set(repro(root)) == expected
    change_parameters(root, lambda value: value.update(datasets=["regdb", "sysu"], seeds=[1, 2]))
    added = {*on("regdb-full-1", "train", "evaluate"), "pack@sysu", *on("sysu-full-2", "train", "evaluate")}
    assert set(repro(root, *EVALUATED)) == {"prepare", *added}
    return root


def measured(root):
    "The tidy rows of each dataset: RegDB's from the report, SYSU-MM01's from its evaluation."
    paths = {"regdb": "metrics.csv", "sysu": "evaluations/sysu-full-2/metrics.csv"}
    return {name: pd.read_csv(root / RESULTS / path, dtype={"seed": str}) for name, path in paths.items()}


def rows(metrics, **values):
    "The rows of a table with these values."
    return metrics[(metrics[list(values)].astype(str) == [str(v) for v in values.values()]).all(axis=1)]


def test_the_pipeline_measures_both_datasets(done):
    for dataset, metrics in measured(done).items():
        assert list(metrics) == COLUMNS and set(metrics.dataset) == {dataset} and set(metrics.variant) == {"full"}
        assert set(metrics.protocol) == {"official", "paired", "concatenated"}
        row, = rows(metrics, metric="rank1", **HEADLINE[dataset]).itertuples()
        assert 0 <= row.low <= row.value <= row.high <= 100
        assert len(rows(metrics, protocol="official", metric="rank1")) == {"regdb": 2, "sysu": 8}[dataset]
        assert len(rows(metrics, protocol="paired", metric="rank1")) == 9
        assert not metrics.metric.str.contains("re-ranked").any() and not metrics.setting.str.contains("mirrored").any()
    assert len(rows(metrics, protocol="official", metric="rank1 deviation")) == 8


def test_splits_are_a_grid_and_results_aggregate(done):
    runs = [read_results(done / RESULTS / f"evaluations/regdb-full-{k}") for k in (1, 2)]
    divided = json.loads((done / "data/packed/regdb/packed.json").read_text())["info"]["runs"]
    for k, own in zip("12", runs): assert sorted(set(own.queries.identity)) == divided[k]["test"]
    evaluate, head = load_params(done / "params.yaml").chosen.evaluate, HEADLINE["regdb"]
    together = over_seeds(runs, evaluate)
    single = [rows(own.metrics, metric="rank1", **head).value.item() for own in runs]
    mean, deviation = (rows(together, seed="all", metric=metric, **head).value.item() for metric in
                       ("rank1", "rank1 deviation"))
    assert mean == pytest.approx(np.mean(single), abs=1e-3)
    assert deviation == pytest.approx(np.std(single, ddof=1), abs=1e-3)


def test_the_report_shows_official_and_paired_figures(done):
    table = (done / RESULTS / "tables/official.md").read_text()
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
    book = pd.read_csv(done / RESULTS / "claims.csv")
    own = rows(book, kind="figure", dataset="regdb", variant="full")
    assert len(own) and set(own.verdict) <= {"reproduced", "not reproduced"}


def test_no_identity_was_held_out(done):
    "In the paper's profile all 395 identities of SYSU-MM01 train, and the model is the last."
    assert not list((done / RESULTS / "curves").glob("*/plots/metrics/val"))


def test_nothing_runs_twice(done): assert repro(done, *EVALUATED) == []


def test_tuples_are_analysed(done):
    facts = pd.read_csv(done / RESULTS / "analyses/regdb-full-2/facts.csv")
    assert set(facts.kind) >= {"lost", "noise", "probe", "weight"}


def test_the_walk_through_shows_what_is_there(done):
    "With both datasets in place; without any it runs among the other notebooks."
    path = done / "nbs/8_real_datasets/06_real_datasets.ipynb"
    made = run("python", "-m", "mmreid.pipeline", "refresh", str(path), root=done)
    assert made.returncode == 0, made.stderr
    assert "no such folder" not in path.read_text() and path.read_text().count("image/png") == 2
