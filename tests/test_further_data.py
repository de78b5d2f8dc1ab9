"LLCM, RGBNT201, MSVR310, BIWI and RobotPKU under their authors' names: whole, incomplete, trained on and measured."
import importlib
import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from conftest import ROOT
from real_trees import further

from mmreid.app import app
from mmreid.config import Train
from mmreid.core import InputError, subsets
from mmreid.data.official import OFFICIAL, reader
from mmreid.data.own import require_answers
from mmreid.data.packed import Packed, pack_dataset
from mmreid.evaluation.measure import embed_packed
from mmreid.evaluation.official import measure_dataset
from mmreid.methods.registry import load_params
from mmreid.models.embeddings import concatenated, similarity
from mmreid.ranking.official import HEADLINE, headlines, joined_by_identity
from mmreid.report.figures import data_label
from mmreid.report.tables import results_table
from mmreid.training.compute import accelerator
from mmreid.training.loop import Training

MODALITIES = {"llcm": ("rgb", "ir"), "rgbnt201": ("rgb", "nir", "tir"), "msvr310": ("rgb", "nir", "tir"),
              "biwi": ("rgb", "depth"), "robotpku": ("rgb", "depth")}


@pytest.fixture(scope="module")
def small(tmp_path_factory): return further(tmp_path_factory.mktemp("small"))


OFFICIALLY = {
    "llcm": {"train identities": 713, "test identities": 351, "images": 46767},
    "rgbnt201": {"train identities": 171, "test identities": 30, "tuples": 4787},
    "msvr310": {"train identities": 155, "test identities": 155, "tuples": 2087, "queries": 591,
                "query identities": 52},
    "biwi": {"identities": 78, "divisions": 5, "rgb images": 22038, "depth images": 22038},
    "robotpku": {"identities": 89, "divisions": 5, "rgb images": 16512, "depth images": 16512},
}
HERE = {
    "llcm": {"train identities": 6, "test identities": 5, "images": 88},
    "rgbnt201": {"train identities": 6, "test identities": 5, "tuples": 44},
    "msvr310": {"train identities": 6, "test identities": 5, "tuples": 44, "queries": 12, "query identities": 3},
    "biwi": {"identities": 16, "divisions": 5, "rgb images": 144, "depth images": 144},
    "robotpku": {"identities": 16, "divisions": 5, "rgb images": 144, "depth images": 144},
}


def counts_of(name):
    "The counts with which the reader of a dataset compares."
    counts = importlib.import_module(f"mmreid.data.{OFFICIAL[name].module}").COUNTS
    return counts if name == "llcm" else counts[name]


@pytest.mark.parametrize("name", OFFICIALLY)
def test_only_a_whole_copy_bears_the_name(small, tmp_path, monkeypatch, name):
    "And not one that lacks an image or a person. Here a dozen people are the whole dataset."
    assert counts_of(name) == OFFICIALLY[name]
    for what, number in HERE[name].items(): monkeypatch.setitem(counts_of(name), what, number)
    root = shutil.copytree(small[name], tmp_path / "copy", copy_function=os.link)
    read = reader(name)
    whole = read(root)
    assert whole.info.incomplete == [] and whole.info.label == name and whole.modalities == MODALITIES[name]
    one = next(path for path in whole.table[whole.modalities[-1]] if path)
    (root / one).rename(tmp_path / "image")
    short = read(root).info
    assert short.label == f"{name} (incomplete copy)" and os.path.basename(one) in str(short.incomplete)
    (tmp_path / "image").rename(root / one)
    assert read(root).info.label == name
    last = whole.table[whole.table.identity == whole.table.identity.iloc[-1]]
    gone = [path for m in whole.modalities for path in last[m] if path]
    if name == "llcm": (root / "idx/test_id.txt").write_text("7,8,9,10")
    elif name == "msvr310": shutil.rmtree((root / gone[0]).parents[1])
    else:
        for path in gone: (root / path).unlink()
    assert read(root).info.label == f"{name} (incomplete copy)"


SMALL = dict(batch_identities=3, batch_tuples=2, steps=2, warmup_steps=1, validate_every=2, checkpoint_every=2)


def settings():
    "(model, train, evaluate, compute, variant) of the quick profile, made small."
    params = load_params(ROOT / "params.yaml")
    model = params.chosen.model.model_copy(update=dict(weights="none", branch_dim=8))
    train = Train(**params.chosen.train.model_dump() | SMALL)
    return (model, train, params.chosen.evaluate.model_copy(update=dict(resamples=100)), params.chosen.compute,
            params.variants["full"])


@pytest.fixture(scope="module")
def measured(small, tmp_path_factory):
    "{name: `Measured`} of a network that was trained for two steps on a few people of each dataset."
    found, folder = {}, tmp_path_factory.mktemp("packed")
    model, train, evaluate, compute, variant = settings()
    torch.set_num_threads(1)
    for name, root in small.items():
        pack_dataset(reader(name)(root), folder / name, 96, 32)
        packed = Packed.open(folder / name).for_run(2 if name == "biwi" else 1)
        network = Training(packed, model=model, train=train, compute=compute, variant=variant, seed=1).run()
        test = packed.only("test")
        if packed.info.pairing == "identity": test = joined_by_identity(test)
        embeddings = embed_packed(network, packed.statistics, test, 64, accelerator(compute))
        assert embeddings.keys() == {*subsets(MODALITIES[name])}
        labels = dict(dataset=packed.info.label, profile="quick", variant="full", seed=1, device="cpu")
        found[name] = measure_dataset(test, similarity(network, embeddings), evaluate,
                                      concatenated(network, embeddings), **labels)
    return found


@pytest.mark.parametrize("name", MODALITIES)
def test_every_dataset_is_trained_on_and_measured_by_its_protocol(measured, name):
    metrics = measured[name].metrics
    official = metrics[(metrics.protocol == "official") & (metrics.metric == "rank1")]
    number = {"llcm": 2, "rgbnt201": 1, "msvr310": 1, "biwi": 4, "robotpku": 4}[name]
    assert len(official) == number and official.value.between(0, 100).all()
    assert HEADLINE[name]["setting"] in set(official.setting)
    others = {"paired", "concatenated"} if name == "llcm" else {"fused", "single", "any", "concatenated"}
    assert set(metrics.protocol) == {"official", *others}


@pytest.mark.parametrize("name", MODALITIES)
def test_the_mark_is_in_tables_and_labels(measured, name):
    metrics = measured[name].metrics
    label = f"{name} (incomplete copy)"
    assert set(metrics.dataset) == {label} and data_label(label) == f"{OFFICIAL[name].title} (incomplete copy)"
    official = metrics[metrics.protocol == "official"]
    assert label in str(results_table(official, index=("dataset", "setting"), show=("rank1",)).index.tolist())
    assert headlines(metrics).query("protocol == 'official'").empty
    assert len(headlines(metrics.assign(dataset=name)).query("protocol == 'official' and metric == 'rank1'")) == 1


def test_fused_figures_of_rgbnt201_are_the_official_ones(measured):
    metrics = measured["rgbnt201"].metrics.set_index(["protocol", "metric"])
    for metric in ("rank1", "mAP", "chance"): assert metrics.value["fused", metric] == metrics.value["official", metric]


def test_a_run_has_its_own_division(small, tmp_path):
    packed = pack_dataset(reader("robotpku")(small["robotpku"]), tmp_path / "packed", 96, 32)
    for k in range(1, 6):
        assert sorted(set(packed.for_run(k).only("test").table.identity)) == packed.info.runs[str(k)]["test"]
    with pytest.raises(InputError, match="from 1 to 5; there is none for seed 6"): packed.for_run(6)
    assert Packed.open(tmp_path / "packed").info.incomplete == packed.info.incomplete != []


@pytest.mark.parametrize("name", MODALITIES)
def test_the_check_says_what_is_missing(small, name):
    done = CliRunner().invoke(app, ["check", name, str(small[name])], standalone_mode=False)
    line = next(line for line in done.stdout.splitlines() if line.startswith("{"))
    found = json.loads(line)
    assert done.return_value == 1 and found["problems"] > 0 and set(found["modality"]) == {*MODALITIES[name]}
    told = done.stderr
    assert all(sentence in told for sentence in reader(name)(small[name]).info.incomplete)


def test_a_link_of_each_dataset_is_in_git():
    for name, layout in OFFICIAL.items(): assert os.readlink(ROOT / "data" / name) == f"raw/{layout.folder}"
    assert require_answers(list(OFFICIAL), load_params(ROOT / "params.yaml").chosen, ROOT) == []


def test_tables_of_marked_and_whole_copies_stay_apart(measured):
    "The same dataset, once whole and once not, gives two rows."
    own = measured["llcm"].metrics
    both = pd.concat([own, own.assign(dataset="llcm")])
    rows = both[(both.protocol == "official") & (both.setting == HEADLINE["llcm"]["setting"])]
    table = results_table(rows, index=("dataset", "variant"), show=("rank1",))
    assert [name for name, _ in table.index] == ["llcm (incomplete copy)", "llcm"] and np.shape(table) == (2, 1)
