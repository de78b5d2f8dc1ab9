"""Official datasets through the pipeline, with the paper's profile made small: from a missing folder to the tables.

They have a dozen people, so every figure and table must show that the copies are incomplete."""
import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, change_parameters, commit, copy_of_the_tree, repro, run
from real_trees import further, look_alikes

from mmreid.data.official import OFFICIAL
from mmreid.evaluation.measure import COLUMNS
from mmreid.evaluation.results import differences, over_seeds, read_results
from mmreid.methods.registry import load_params
from mmreid.ranking.official import HEADLINE, headlines
from mmreid.report.claims import load_claims
from mmreid.report.gather import read_references, shown_metrics
from mmreid.report.verdicts import MeasuredTables, judge_figure

RESULTS = "results/paper"
EVALUATED = ("evaluate@regdb-full-1", "evaluate@sysu-full-2", "evaluate@rgbnt201-full-2")
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
    for name in OFFICIAL: shutil.copy2(ROOT / "data" / name, root / "data" / name, follow_symlinks=False)
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

    Then another of its splits, and SYSU-MM01 and RGBNT201 as far as their evaluation."""
    folder = tmp_path_factory.mktemp("pipeline")
    raw = look_alikes(folder / "raw") | {"rgbnt201": further(folder / "raw")["rgbnt201"]}
    root = repository(folder / "tree", raw.values())
    on = lambda name, *stages: [f"{stage}@{name}" for stage in stages]
    stages = ("train", "evaluate", "analyse")
    expected = {"prepare", "render", *on("regdb", "pack", "references"), *on("regdb-full-2", *stages), "report"}
    assert set(repro(root)) == expected
    change_parameters(root, lambda value: value.update(datasets=["regdb", "sysu", "rgbnt201"], seeds=[1, 2]))
    added = {*on("regdb-full-1", "train", "evaluate"), "pack@sysu", *on("sysu-full-2", "train", "evaluate"),
             "pack@rgbnt201", *on("rgbnt201-full-2", "train", "evaluate")}
    assert set(repro(root, *EVALUATED)) == {"prepare", *added}
    return root


def measured(root):
    "The tidy rows of `full` on each dataset: RegDB's from the report, those of the others from their evaluation."
    paths = {"regdb": "metrics.csv"} | {n: f"evaluations/{n}-full-2/metrics.csv" for n in ("sysu", "rgbnt201")}
    tables = {name: pd.read_csv(root / RESULTS / path, dtype={"seed": str}) for name, path in paths.items()}
    return {name: rows(table, variant="full") for name, table in tables.items()}


def rows(metrics, **values):
    "The rows of a table with these values."
    return metrics[(metrics[list(values)].astype(str) == [str(v) for v in values.values()]).all(axis=1)]


def test_the_pipeline_measures_all_datasets(done):
    of_tuples = measured(done)["rgbnt201"]
    assert set(of_tuples.protocol) == {"official", "fused", "single", "any", "concatenated"}
    assert len(rows(of_tuples, metric="rank1", **HEADLINE["rgbnt201"])) == 1
    assert len(rows(of_tuples, metric="rank1", protocol="any")) == 49
    for dataset, metrics in measured(done).items():
        if dataset == "rgbnt201": continue
        assert list(metrics) == COLUMNS and len(metrics)
        assert set(metrics.protocol) == {"official", "paired", "concatenated"}
        row, = rows(metrics, metric="rank1", **HEADLINE[dataset]).itertuples()
        assert 0 <= row.low <= row.value <= row.high <= 100
        assert len(rows(metrics, protocol="official", metric="rank1")) == {"regdb": 2, "sysu": 8}[dataset]
        assert len(rows(metrics, protocol="paired", metric="rank1")) == 9
        assert not metrics.metric.str.contains("re-ranked").any() and not metrics.setting.str.contains("mirrored").any()
        if dataset == "sysu": assert len(rows(metrics, protocol="official", metric="rank1 deviation")) == 8


def test_a_copy_that_lacks_people_is_marked_everywhere(done):
    "From the packed description to figures of a run, tidy rows, tables and the ledger."
    mark = "incomplete copy"
    for name, metrics in measured(done).items():
        info = json.loads((done / f"data/packed/{name}/packed.json").read_text())["info"]
        assert info["incomplete"] and set(metrics.dataset) == {f"{name} ({mark})"}
        run = json.loads((done / RESULTS / f"runs/{name}-full-2.json").read_text())
        assert all(mark in key for key in run if key != "chance")
    for table in ("official", "costs", "probe", "differences"):
        lines = (done / RESULTS / f"tables/{table}.md").read_text().splitlines()[2:]
        assert all(f"| regdb ({mark}) |" in line for line in lines), table
    assert set(pd.read_csv(done / RESULTS / "facts.csv").dataset) == {f"regdb ({mark})"}
    report = (done / RESULTS / "notebooks/report.ipynb").read_text()
    assert f"regdb ({mark})" in report


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


def test_the_start_is_measured_on_each_split(done):
    "A row is compared with `frozen` on the people of its own split; there are as many figures as official splits."
    divided = json.loads((done / "data/packed/regdb/packed.json").read_text())["info"]["runs"]
    starts = read_references(done / RESULTS, ["regdb"], divided)["regdb"]["frozen"]
    assert [sorted(set(own.queries.identity)) for own in starts] == [divided[k]["test"] for k in divided]
    metrics = pd.read_csv(done / RESULTS / "metrics.csv")
    assert set(metrics.variant) == {"full", "frozen"}
    shown = rows(shown_metrics(metrics), variant="frozen", metric="rank1")
    assert set(shown.seed.astype(str)) == {"2"} and len(rows(shown, **HEADLINE["regdb"])) == 1
    runs = [read_results(done / RESULTS / f"evaluations/regdb-full-{k}") for k in (1, 2)]
    evaluate, pair = load_params(done / "params.yaml").chosen.evaluate, [("full", "frozen")]
    assert set(differences({"full": runs, "frozen": starts}, pair, evaluate).runs) == {2}
    written = pd.read_csv(done / RESULTS / "tables/differences.csv")
    assert set(rows(written, against="frozen").verdict) == {"needs seeds"}
    mean, = rows(read_results(done / RESULTS / "references/regdb-frozen").metrics, metric="rank1",
                 **HEADLINE["regdb"]).value
    assert mean == pytest.approx(np.mean([rows(own.metrics, metric="rank1", **HEADLINE["regdb"]).value.item()
                                          for own in starts]), abs=1e-3)


def test_the_report_shows_official_and_paired_figures(done):
    table = (done / RESULTS / "tables/official.md").read_text()
    assert all(text in table for text in ("visible to thermal", "thermal to visible", "| official |", "| paired |"))


def test_claims_find_the_official_figures(done):
    "Exactly the row that the paper's tables report."
    claims = load_claims()
    for name, dataset in (("t2-proposed-regdb-rank1", "regdb"), ("t2-proposed-sysu-mAP", "sysu")):
        metrics, metric = measured(done)[dataset].assign(dataset=dataset), claims[name].metric     # as if whole
        expected, = rows(metrics, metric=metric, **HEADLINE[dataset]).itertuples()
        assert len(rows(headlines(metrics), protocol="official", metric=metric)) == 1
        found, = judge_figure(claims[name], MeasuredTables(headlines(metrics)), claims)
        assert (found["measured"], found["low"], found["high"]) == (expected.value, expected.low, expected.high)
    book = pd.read_csv(done / RESULTS / "claims.csv")
    own = rows(book, kind="figure", dataset="regdb", variant="full")
    assert len(own) and set(own.verdict) == {"needs data"}      # an incomplete copy is not RegDB


def test_no_identity_was_held_out(done):
    "In the paper's profile all 395 identities of SYSU-MM01 train, and the model is the last."
    assert not list((done / RESULTS / "curves").glob("*/plots/metrics/val"))


def test_nothing_runs_twice(done): assert repro(done, *EVALUATED) == []


def test_tuples_are_analysed(done):
    facts = pd.read_csv(done / RESULTS / "analyses/regdb-full-2/facts.csv")
    assert set(facts.kind) >= {"lost", "noise", "probe", "weight"}


def test_git_keeps_no_picture_of_real_people(done):
    "The report's figures are in git; rank lists stay where git ignores them."
    ignored = lambda path: run("git", "check-ignore", "-q", "--no-index", str(path), root=done).returncode == 0
    kept = {path.name for path in (done / RESULTS).rglob("*.png") if not ignored(path.relative_to(done))}
    assert "any-to-any.png" in kept
    assert not any(name.startswith(("rank-list", "retrieval", "attention", "people")) for name in kept - {"people.png"})


def test_the_walk_through_shows_what_is_there(done):
    "With three datasets in place; without any it runs among the other notebooks."
    path = done / "nbs/8_real_datasets/06_real_datasets.ipynb"
    made = run("python", "-m", "mmreid.pipeline", "refresh", str(path), root=done)
    assert made.returncode == 0, made.stderr
    text = path.read_text()
    assert not any(f'"{name}: data/raw' in text for name in ("regdb", "sysu", "rgbnt201")) and "llcm: data/raw" in text
    assert "rgbnt201 (incomplete copy): 6 train identities, officially 171" in text and text.count("image/png") == 2


def test_a_folder_in_a_folder_stops_with_one_sentence(tmp_path):
    root = repository(tmp_path / "tree", [])
    for mark in ("Visible", "Thermal", "idx"): (root / "data/raw/RegDB/RegDB" / mark).mkdir(parents=True)
    stopped = run("dvc", "repro", "prepare", root=root)
    told = [line for line in stopped.stderr.splitlines() if line.startswith("error: ")]
    place = "data/raw/RegDB"
    assert told == [f"error: {place}: RegDB is in {place}/RegDB; move all that is there to {place}"]
