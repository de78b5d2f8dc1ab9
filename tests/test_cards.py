"The cards say what is in the files that they describe, and other programs can read them."
import sys

import pytest
from conftest import ROOT

from mmreid.config import Rendered, SplitSizes
from mmreid.core import InputError, read_json, write_json
from mmreid.data.rendered.dataset import render_dataset
from mmreid.data.samples import KEYS, read_dataset
from mmreid.gallery.cards import croissant, croissant_library, main, model_card, write_cards
from mmreid.methods.registry import load_params

CARDS = ROOT / "docs/cards"


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    "A folder with a few rendered people and their Croissant file."
    folder = tmp_path_factory.mktemp("people")
    sizes = SplitSizes(train=1, val=1, test=1)
    render_dataset(Rendered(seed=3, height=96, width=48, infrared="thermal", identities=sizes, tuples=2), folder)
    write_json(folder / "croissant.json", croissant(read_dataset(folder)))
    return folder


def rows(path, count):
    "The first records of the samples that the Croissant file at `path` describes, texts decoded."
    records = croissant_library().Dataset(path).records("samples")
    text = lambda value: value.decode() if isinstance(value, bytes) else value
    return [{key.split("/")[1]: text(value) for key, value in row.items()} for row, _ in zip(records, range(count))]


def test_rows_are_read_through_croissant(people):
    table = read_dataset(people).table
    for row, own in zip(rows(people / "croissant.json", 3), table.to_dict("records")):
        assert row.keys() == own.keys()
        for name in [*KEYS, "rgb", "ir", "depth", "mask", "skin"]: assert row[name] == own[name]
        for name in ("x", "distance", "visible", "age"): assert row[name] == pytest.approx(own[name])


def test_another_table_is_noticed(people, tmp_path):
    "By its hash: the description belongs to one table."
    described = read_json(people / "croissant.json")
    (tmp_path / "samples.csv").write_text((people / "samples.csv").read_text().replace("hall", "gate"))
    write_json(tmp_path / "croissant.json", described)
    with pytest.raises(croissant_library().GenerationError, match="samples.csv"): rows(tmp_path / "croissant.json", 1)


def test_the_description_in_the_repository_is_valid():
    metadata = croissant_library().Dataset(CARDS / "rendered-people.json").metadata
    assert not metadata.ctx.issues.errors
    assert [field.name for field in metadata.record_sets[0].fields][:7] == [*KEYS, "rgb", "ir", "depth"]


def test_the_datasheet_counts_the_people_of_the_quick_profile():
    sizes = load_params(ROOT / "params.yaml").profiles["quick"].rendered.identities
    sheet = (CARDS / "rendered-people.md").read_text()
    assert f"{sizes.train + sizes.val + sizes.test} rendered people" in sheet
    for split in ("train", "val", "test"): assert f"| {split} | {getattr(sizes, split)} |" in sheet


def test_the_model_card_is_that_of_the_network(): assert (CARDS / "best-shared.md").read_text() == model_card()


@pytest.mark.parametrize("name", ["best-shared.md", "rendered-people.md"])
def test_every_card_says_what_it_must_not_be_used_for(name):
    text = " ".join((CARDS / name).read_text().split())
    assert "without consent and a legal basis" in text and "surveillance" in text and "rendered" in text.lower()


def test_a_real_dataset_is_refused(people, tmp_path):
    for name in ("dataset.json", "samples.csv"): (tmp_path / name).write_bytes((people / name).read_bytes())
    write_json(tmp_path / "dataset.json", read_json(tmp_path / "dataset.json") | {"kind": "real"})
    with pytest.raises(InputError, match="is not a rendered dataset"): write_cards(tmp_path, tmp_path / "cards")
    assert not (tmp_path / "cards").exists()


def test_without_people_there_is_nothing_to_describe(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main() == 2 and "`make repro` renders the people" in capsys.readouterr().err


def test_a_missing_library_is_named(people, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlcroissant", None)
    with pytest.raises(InputError, match=r"pip install -e '.\[cards\]'"): croissant(read_dataset(people))
