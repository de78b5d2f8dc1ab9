"Forty pictures of one's own people: from three folders to the pipeline, and every fault on the way."
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, change_parameters, commit, git, run, shrunken
from PIL import ExifTags, Image

from mmreid.app import main
from mmreid.config import read_params
from mmreid.core import InputError
from mmreid.data.importing import import_people
from mmreid.data.own import check_own, require_answers
from mmreid.data.official import OFFICIAL
from mmreid.data.packed import pack_dataset
from mmreid.data.samples import read_dataset
from mmreid.methods.registry import load_params
from mmreid.pipeline.lanes import chains
from mmreid.pipeline.stages import require_data, stage_settings

SIZE = (32, 16)


def picture(path, person, frame, mode):
    "Write one picture; depth in millimetres, 16 bits."
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.clip(np.random.default_rng([person, frame]).normal(40 + 30 * person, 10, SIZE), 0, 255)
    pixels = {"RGB": np.stack([grey, grey / 2, 255 - grey], -1), "L": 255 - grey, "I;16": 600 + 15 * grey}[mode]
    Image.fromarray(pixels.astype(np.uint16 if mode == "I;16" else np.uint8)).save(path)


@pytest.fixture
def pictures(tmp_path):
    "Forty pictures of six people by two cameras, in folders rgb, ir and depth."
    folder, shots = tmp_path / "pictures", [(p, c, 0) for p in range(6) for c in ("hall", "yard")]
    for person, camera, frame in [*shots, (0, "hall", 1)]:
        for modality, mode in (("rgb", "RGB"), ("ir", "L"), ("depth", "I;16")):
            picture(folder / modality / f"p{person}/{camera}_{frame}.png", person, frame, mode)
    picture(folder / "rgb/p1/hall_1.png", 1, 1, "RGB")
    assert len(list(folder.rglob("*.png"))) == 40
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    "A folder with a params.yaml, where commands are typed; the quick profile for three training people."
    values = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"datasets": ["mine"]}
    values["profiles"]["quick"]["train"] |= {"batch_identities": 3, "batch_tuples": 1}
    folder = tmp_path / "place"
    folder.mkdir()
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    monkeypatch.chdir(folder)
    return folder


def imported(pictures, **how):
    import_people("mine", pictures, shares=[.5, 0, .5], **how)
    return read_dataset("data/mine")


def problems():
    "What the check finds in data/mine."
    return check_own("mine", "data/mine", read_params().chosen)[1]


def test_from_pictures_to_the_plan_of_the_pipeline(pictures, place, capsys):
    before = {path: path.read_bytes() for path in pictures.rglob("*.png")}
    assert main(["import", "mine", str(pictures), "--split", "0.5,0,0.5"]) == 0
    said = capsys.readouterr().out
    assert "40 images of 6 people from cameras hall, yard; a row is a tuple" in said
    assert "depth: mode I;16; range" in said and "proposed from the training images" in said
    assert main(["check", "mine"]) == 0
    found = capsys.readouterr()
    counts = json.loads(found.out)
    assert counts["images"] == 40 and counts["problems"] == 0 and counts["split"]["train"]["identities"] == 3
    assert counts["modes"] == {"rgb": {"RGB": 14}, "ir": {"L": 13}, "depth": {"I;16": 13}}
    params = load_params()
    require_data(params)
    names = [name for chain in chains(params) for name in chain]
    assert {name.split("@")[0] for name in names} == {"train", "evaluate", "analyse", "references"}
    assert all(name.split("@")[1].startswith("mine") for name in names)
    assert stage_settings("report", None, params)["datasets"] == ["mine"]
    assert {path: path.read_bytes() for path in pictures.rglob("*.png")} == before


def of_the_readme():
    "The commands of the README's section on own people."
    section = (ROOT / "README.md").read_text().split("## Your own people")[1]
    lines = section.split("```sh\n")[1].split("```")[0].splitlines()
    return [line.split("  #")[0].strip() for line in lines]


def test_the_commands_of_the_readme(pictures, tmp_path):
    "From forty pictures to results and a searched gallery, in at most five commands, word by word."
    root = shrunken(tmp_path / "tree")
    change_parameters(root, lambda values: values["profiles"]["quick"]["train"].update(batch_tuples=1))
    commit(root, "small batches")
    setup, *commands = of_the_readme()
    assert setup == "make setup && source .venv/bin/activate" and len(commands) <= 5
    program = f"{sys.executable} -c 'import sys; from mmreid.app import main; sys.exit(main())' "
    for command in commands:
        words = command.replace("~/pictures", str(pictures)).replace("mmreid ", program, 1)
        done = run("bash", "-c", words, root=root)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    metrics = pd.read_csv(root / "results/quick/metrics.csv")
    assert set(metrics.dataset) == {"mine"} and set(metrics.variant) == {"full", "frozen"}
    assert "similarity" in done.stdout and (root / "build/search.html").stat().st_size > 20_000
    assert git(root, "ls-files", "-co", "--exclude-standard", "data").stdout == ""     # git would take no picture


def test_depth_of_16_bits_keeps_its_levels(pictures, place):
    mine = imported(pictures)
    packed = pack_dataset(mine, "packed", *SIZE)
    low, high = mine.info.modalities["depth"].range
    for row, path in zip(packed.rows[:, 2], mine.table.depth):
        if row < 0: continue
        with Image.open(place / "data/mine" / path) as image: values = np.asarray(image).astype(float)
        expected = 255 * np.clip((values - low) / (high - low), 0, 1)
        assert np.abs(packed.arrays["depth"][row, ..., 0] - expected).max() <= .5 + 1e-4
    assert len(np.unique(packed.arrays["depth"])) > 100
    assert packed.info.modalities["depth"].range == (low, high)
    assert packed.info.model_dump()["modalities"]["ir"] == {"channels": 1}
    without = json.loads((place / "data/mine/dataset.json").read_text())
    del without["modalities"]["depth"]["range"]
    (place / "data/mine/dataset.json").write_text(json.dumps(without))
    with pytest.raises(InputError, match=r"line 2, depth: .*mode I;16 with values from .*\"range\": \[low, high\]"):
        pack_dataset(read_dataset("data/mine"), "again", *SIZE)
    assert not (place / "again").exists()


def test_images_of_8_bits_are_packed_to_the_byte(pictures, place):
    mine = imported(pictures)
    packed = pack_dataset(mine, "packed", *SIZE)
    for modality in ("rgb", "ir"):
        images = [np.asarray(Image.open(place / "data/mine" / p)) for p in mine.table[modality] if p]
        assert (packed.arrays[modality].reshape(len(images), *images[0].shape) == np.stack(images)).all()


def unreadable(folder): (folder / "ir/p0/hall_0.png").write_bytes(b"no image")
def missing(folder): (folder / "ir/p0/hall_0.png").unlink()
def stray(folder): (folder / "ir/p0/copy of hall_0.png").touch()
def another_depth(folder): picture(folder / "depth/p0/hall_0.png", 0, 0, "L")


def pipe(folder):
    missing(folder)
    os.mkfifo(folder / "ir/p0/hall_0.png")


def a_folder(folder):
    missing(folder)
    (folder / "ir/p0/hall_0.png").mkdir()


def a_link_to_itself(folder):
    missing(folder)
    (folder / "ir/p0/hall_0.png").symlink_to("hall_0.png")


def twice(folder):
    path = folder / "dataset.json"
    path.write_text(path.read_text().replace('"name"', '"name": "mine", "name"', 1))


def half_merged(folder):
    path = folder / "samples.csv"
    path.write_text(f"{path.read_text()}<<<<<<< HEAD\n")


def latin(folder):
    path = folder / "samples.csv"
    path.write_bytes(path.read_bytes() + "José,hall,train,normal,,,\n".encode("latin-1"))


def one_level(folder):
    for path in (folder / "ir").rglob("*.png"): Image.new("L", SIZE[::-1], 7).save(path)


def edited(folder, change):
    "Change the description and the text of the table."
    path, table = folder / "dataset.json", folder / "samples.csv"
    value, text = change(json.loads(path.read_text()), table.read_text())
    path.write_text(json.dumps(value))
    table.write_text(text)


def without_range(folder): edited(folder, lambda info, text: ({**info, "modalities": info["modalities"] | {
    "depth": {"channels": 1}}}, text))


def in_two_splits(folder): edited(folder, lambda info, text: ({**info, "identities": {
    **info["identities"], "val": info["identities"]["test"][:1]}}, text))


def one_camera(folder): edited(folder, lambda info, text: (info, text.replace(",yard,", ",hall,")))
def a_cell_too_many(folder): edited(folder, lambda info, text: (info, text.rstrip("\n") + ",\n"))
def a_cell_too_few(folder): edited(folder, lambda info, text: (info, text + "p9,hall,train\n"))
def no_row(folder): edited(folder, lambda info, text: (info, text.splitlines()[0] + "\n"))
def misspelt(folder): edited(folder, lambda info, text: ({**{k: v for k, v in info.items() if k != "pairing"},
                                                          "pairnig": "tuple"}, text))


FAULTS = {unreadable: "ir/p0/hall_0.png: image cannot be read", missing: "ir/p0/hall_0.png: missing",
          stray: "ir/p0/copy of hall_0.png: unexpected file", pipe: "ir/p0/hall_0.png: not a file",
          one_level: "ir: every image has the one level 7", without_range: "depth/p0/hall_0.png: mode I;16 with values",
          another_depth: "depth: depth/p0/hall_0.png has 8 bits", in_two_splits: "dataset.json: identities: ",
          one_camera: "camera hall: none of its people is seen by another camera",
          a_cell_too_many: "cells for 7 columns", a_cell_too_few: "samples.csv line 16: 3 cells for 7 columns",
          no_row: "samples.csv: the table has no row",
          a_folder: "ir/p0/hall_0.png: a folder, not an image", a_link_to_itself: "ir/p0/hall_0.png: not a file",
          twice: "dataset.json: not JSON (the key 'name' is there twice)", latin: "samples.csv line 16: not UTF-8",
          half_merged: "samples.csv line 16: an unfinished merge (<<<<<<< HEAD)",
          misspelt: "dataset.json: pairnig: unknown key (pairing is meant?)"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_check_names_the_fault(pictures, place, fault):
    imported(pictures)
    assert problems() == []
    fault(place / "data/mine")
    assert any(FAULTS[fault] in problem for problem in problems()), problems()


def test_a_camera_without_a_second_view_is_refused_before_anything_runs(pictures, place):
    imported(pictures)
    one_camera(place / "data/mine")
    with pytest.raises(InputError, match="test: nobody has whole tuples from two cameras; give such people to test"):
        require_data(read_params())
    with pytest.raises(InputError, match="batch has 8 identities, but only 3 are to train on; set train.batch_ident"):
        require_answers(["mine"], read_params(ROOT / "params.yaml").chosen)
    shutil.rmtree("data")
    with pytest.raises(InputError, match="data/mine: no such dataset; `mmreid import mine SOURCE` makes it"):
        require_data(read_params())


def test_pictures_without_frames_become_single_images(pictures, place):
    flat = pictures.parent / "flat"
    for path in pictures.rglob("*.png"):
        modality, person, name = path.relative_to(pictures).parts
        (flat / person).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, flat / person / f"{modality}{name[-5]}@{name[:4]}.png")
    mine = imported(flat, pattern="{identity}/{modality}0@{camera}", link=True)
    assert mine.info.pairing == "identity" and len(mine.table) == 36 and problems() == []
    assert (place / "data/mine" / next(p for p in mine.table.ir if p)).is_symlink()
    require_data(read_params())


@pytest.mark.parametrize("name", ["row", "query", "hit", "modalities", "camera_x", "split"])
def test_a_modality_is_not_called_as_something_else(pictures, place, name):
    (pictures / "ir").rename(pictures / name)
    with pytest.raises(InputError, match=f"modality '{name}': this name is taken; choose another"): imported(pictures)
    assert not (place / "data/mine").exists()


def test_a_name_that_networks_cannot_hold_is_refused(pictures, place):
    (pictures / "ir").rename(pictures / "values")
    imported(pictures)
    with pytest.raises(InputError, match="'values' is a name of PyTorch's own"): require_data(read_params())


@pytest.mark.parametrize("text, fault", [("profile: quick\nprofile: quick\n", "line 2: not YAML .*'profile' is there"),
                                         ("<<<<<<< HEAD\nseeds: [1]\n", "line 1: an unfinished merge")])
def test_a_fault_of_the_parameters_has_a_line(place, text, fault):
    (place / "params.yaml").write_text(text)
    with pytest.raises(InputError, match=f"params.yaml {fault}"): read_params()


def experiment(root, *words, where="--temp", weight_decay="0.00001"):
    "`dvc exp run` of the stages up to `pack`, in a temporary workspace, on data/mine and with a small number."
    values = ("-S", "datasets=[mine]", "-S", f"profiles.quick.train.weight_decay={weight_decay}")
    return run("dvc", "exp", "run", where, *words, *values, "pack", root=root)


def test_an_experiment_in_a_temporary_workspace(pictures, tmp_path):
    "It has no data/mine, and says how to get it; each way works. `weight_decay=0.00001` is a number."
    root = shrunken(tmp_path / "tree")
    change_parameters(root, lambda values: values["profiles"]["quick"]["train"].update(batch_tuples=1))
    commit(root, "small batches")
    import_people("mine", pictures, shares=[.5, 0, .5], root=root)
    done = experiment(root)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    said = done.stdout + done.stderr
    assert "`dvc add data/mine` and commit data/mine.dvc, or give `-C data/mine` to `dvc exp run`" in said
    done = experiment(root, "-C", "data/mine", "--name", "copied")
    assert done.returncode == 0, done.stderr
    assert run("dvc", "add", "data/mine", root=root).returncode == 0
    commit(root, "the data")
    done = experiment(root, "--name", "kept")
    assert done.returncode == 0, done.stderr
    done = experiment(root, "--name", "queued", where="--queue", weight_decay="0.00002")
    assert done.returncode == 0, done.stderr
    done = run("dvc", "exp", "run", "--run-all", "--jobs", "1", root=root)
    assert done.returncode == 0, done.stderr
    for name in ("copied", "kept", "queued"):
        assert "mine" in git(root, "show", f"{experiment_commit(root, name)}:dvc.lock").stdout


def experiment_commit(root, name):
    "The commit of an experiment."
    refs = git(root, "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
    return next(ref for ref in refs if ref.endswith(f"/{name}"))


def test_a_photograph_is_turned_upright(pictures, place):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    lying = np.rot90(np.asarray(Image.open(pictures / "rgb/p0/hall_0.png")))
    upright = pack_dataset(imported(pictures), "upright", *SIZE).arrays["rgb"]
    Image.fromarray(lying).save(pictures / "rgb/p0/hall_0.png", exif=exif)
    turned = imported(pictures, force=True)
    assert (pack_dataset(turned, "turned", *SIZE).arrays["rgb"] == upright).all()
    notes = check_own("mine", "data/mine", read_params().chosen)[2]
    assert notes == ["rgb/p0/hall_0.png: EXIF orientation 6; is turned upright"]


@pytest.mark.parametrize("name", ["NA", "None", "null", "nan", "007", "1e3", "José Ñ"])
def test_a_person_may_have_any_name(pictures, place, name):
    (pictures / "list.csv").write_text(f"identity,camera,split,rgb\n{name},hall,train,rgb/p0/hall_0.png\n"
                                       "bob,hall,test,rgb/p1/hall_0.png\n", encoding="utf-8")
    import_people("mine", pictures / "list.csv")
    assert read_dataset("data/mine").table.identity.tolist() == sorted([name, "bob"])


def table_of(pictures, header, *rows):
    "Import a table of the pictures; its identities."
    (pictures / "list.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    import_people("mine", pictures / "list.csv")
    return read_dataset("data/mine").table.identity.tolist()


def test_a_person_has_one_name_however_it_is_written(pictures, place):
    "With a blank too many, or with an accent as a character of its own: not two people, one to train and one to test."
    rows = [f"{name},{camera},train,rgb/p0/{camera}_0.png" for name, camera in
            (("Jos\u00e9", "hall"), (" Jose\u0301 ", "yard"))]
    found = table_of(pictures, "identity,camera,split,rgb", *rows, "bob,hall,test,rgb/p1/hall_0.png")
    assert found == ["Jos\u00e9", "Jos\u00e9", "bob"]


@pytest.mark.parametrize("line", ["7,{}", "{},"])
def test_a_column_without_a_name_is_no_modality(pictures, place, line):
    "The index that pandas writes, or a comma at the end of each line."
    texts = ("identity,camera,split,rgb", "ann,hall,train,rgb/p0/hall_0.png", "bob,hall,test,rgb/p1/hall_0.png")
    header, *rows = map(line.format, texts)
    assert table_of(pictures, header.removeprefix("7"), *rows) == ["ann", "bob"]


def test_git_takes_no_picture():
    "Nor those of an analysis; of these the report shows two, which are made of rendered people only."
    ignored = lambda path: not subprocess.run(["git", "check-ignore", "-q", "--no-index", path], cwd=ROOT).returncode
    cells = json.loads((ROOT / "nbs/stages/analyse.ipynb").read_text(encoding="utf-8"))["cells"]
    analyse = [line.strip() for cell in cells for line in "".join(cell["source"]).splitlines()]
    for name in ("rank-list-fused", "retrieval"):
        assert all(line.startswith("if kept: ") for line in analyse if f"/{name}.png" in line)
    assert any(line.startswith('kept = packed.info.kind == "rendered"') for line in analyse)
    for name in ("rank-list-fused", "rank-list-cross-modal", "retrieval", "attention"):
        assert ignored(f"results/quick/analyses/mine-full-1/{name}.png")
    assert ignored("results/quick/notebooks/analyse-mine-full-1.ipynb")
    assert all(map(ignored, ("data/mine/rgb/p0/hall_0.png", "data/mine", "data/raw/own/a.png", "data/a.csv")))
    assert not any(map(ignored, ("data/mine.dvc", "data/raw/RegDB.dvc", *[f"data/{n}" for n in OFFICIAL])))
