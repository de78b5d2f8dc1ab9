"RegDB and SYSU-MM01 as their authors hand them out, with tiny images: counts, galleries, figures and the check."
import ctypes
import json
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, environment, run
from real_trees import ABSENT, OFFICIAL, look_alikes, regdb_tree, sysu_tree

from mmreid.core import InputError, subsets
from mmreid.data.packed import Packed, pack_dataset
from mmreid.data.regdb import read_regdb
from mmreid.data.sysu import CAMERAS, read_ids, read_permutations, read_sysu
from mmreid.evaluation.official import measure_official
from mmreid.methods.registry import load_params
from mmreid.ranking.metrics import rank_metrics_by_definition
from mmreid.ranking.official import QUESTIONS, headlines, joined_by_identity, rank_questions
from mmreid.ranking.protocols import cosine_similarity

official = pytest.mark.skipif(not OFFICIAL.is_dir(), reason=ABSENT)
MAIN = "import sys; from mmreid.data.check import main; sys.exit(main())"     # what the console script mmreid-data runs
CHECK = [sys.executable, "-c", MAIN]


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    "Both datasets under all official names (where the lists are at hand)."
    folder, trees = tmp_path_factory.mktemp("raw"), {"regdb": (regdb_tree, "RegDB"), "sysu": (sysu_tree, "SYSU-MM01")}
    return {name: tree(folder / place, official=True) for name, (tree, place) in trees.items()}


@pytest.fixture(scope="module")
def small(tmp_path_factory): return look_alikes(tmp_path_factory.mktemp("small"))


class Images:
    "As much of a packed dataset as joining needs: the table of one split, and rows as if it had been packed."
    def __init__(self, dataset, split, run="1"):
        parts = dataset.info.runs.get(run, dataset.info.identities)
        part_of = {i: part for part, people in parts.items() for i in people}
        self.table = dataset.table[dataset.table.identity.map(part_of) == split].reset_index(drop=True)
        has = [(self.table[m] != "").to_numpy() for m in ("rgb", "ir")]
        rows = np.stack([np.where(own, np.cumsum(own) - 1, -1) for own in has], axis=1).astype(np.int32)
        self.packed = Packed(None, dataset.info, self.table, rows, {}, np.zeros((len(rows), 0), np.int32), {}, {}, "")


def test_of(dataset, run="1"):
    "The test images of a dataset, joined into tuples."
    return joined_by_identity(Images(dataset, "test", run).packed)


test_of.__test__ = False


@official
def test_regdb_has_the_official_counts(trees):
    dataset = read_regdb(trees["regdb"])
    assert len(dataset.table) == 8240 and sorted(dataset.info.runs, key=int) == [str(k) for k in range(1, 11)]
    for split, identities in dataset.info.runs.items():
        assert {part: len(people) for part, people in identities.items()} == {"train": 206, "test": 206}
        for part in ("train", "test"):
            table = Images(dataset, part, split).table
            assert [(table[m] != "").sum() for m in ("rgb", "ir")] == [2060, 2060]


@official
def test_sysu_has_the_official_counts(trees):
    dataset = read_sysu(trees["sysu"])
    sizes = {part: len(people) for part, people in dataset.info.identities.items()}
    assert sizes == {"train": 296, "val": 99, "test": 96}
    assert [(dataset.table[m] != "").sum() for m in ("rgb", "ir")] == [29033, 15712]
    training = dataset.table[dataset.table.split != "test"]
    assert [(training[m] != "").sum() for m in ("rgb", "ir")] == [22258, 11909]
    table = test_of(dataset).table
    questions = {trials[0].setting: trials for trials in QUESTIONS["sysu"](table)}
    assert (table.rgb != "").sum() == 6775 and {len(trials) for trials in questions.values()} == {10}
    size = {"all-search, 1 shot": 301, "all-search, 10 shots": 3010,
            "indoor-search, 1 shot": 112, "indoor-search, 10 shots": 1120}
    for name, trials in questions.items():
        assert {len(t.gallery) for t in trials} == {size[name.rsplit(",", 1)[0]]} and len(trials[0].query) == 3803
        hit = (trials[0].query_ids[:, None] == trials[0].gallery_ids) & ~trials[0].excluded
        assert hit.any(1).sum() == (2208 if name.startswith("indoor") else 3803)


def literal_gallery(root, cameras, shots, trial, convention, permutations):
    "File names of a gallery, drawn as the definition reads, from the folders themselves."
    found, lots = [], random.Random(trial)
    for identity in sorted(read_ids(root / "exp/test_id.txt")):
        for camera in cameras:
            if not (root / camera / identity).is_dir(): continue
            files = sorted(os.listdir(root / camera / identity))
            if convention == "official": own = [files[n - 1] for n in permutations[camera, identity][trial, :shots]]
            else: own = [lots.choice(files)] if shots == 1 else lots.sample(files, shots)
            found += [f"{camera}/{identity}/{name}" for name in own]
    return sorted(found)


def assert_same_figures(trials, metrics, see, some):
    "Each query of `some` has the figures that the definition gives it."
    for t, m in zip(trials, metrics):
        q = t.query[some]
        distance = -see(q, t.query_subset, t.gallery, t.gallery_subset)
        slow = rank_metrics_by_definition(distance, t.identity[q], t.gallery_ids, excluded=t.excluded[some], cmc=t.cmc)
        for name in ("rank", "ap", "inp", "share"):
            found, expected = getattr(m, name)[some], getattr(slow, name)
            np.testing.assert_allclose(found, expected, rtol=1e-9, err_msg=f"{t.setting}: {name}")


def random_similarity(table, width=32):
    random = np.random.default_rng(1)
    return cosine_similarity({(m,): random.normal(size=(len(table), width)).astype(np.float32) for m in ("rgb", "ir")})


@official
def test_sysu_figures_are_those_of_the_definition(trees):
    """Every mode, number of shots and convention.

    Galleries from the folders and the MAT file, metrics from the slow oracle."""
    root = trees["sysu"]
    table, permutations = test_of(read_sysu(root)).table, read_permutations(root)
    questions, see = QUESTIONS["sysu"](table), random_similarity(table)
    for trials, metrics in zip(questions, rank_questions(questions, see)):
        mode, shots, convention = trials[0].setting.split(", ")
        cameras = [c for c, m in CAMERAS.items() if m == "rgb" and (mode == "all-search" or c in ("cam1", "cam2"))]
        for n in (0, 9):
            literal = literal_gallery(root, cameras, int(shots.split()[0]), n, convention.split()[0], permutations)
            assert sorted(table.rgb.iloc[trials[n].gallery]) == literal
        from_3 = (table.camera_ir.iloc[trials[0].query] == "cam3").to_numpy()
        in_2 = (table.camera_rgb.iloc[trials[0].gallery] == "cam2").to_numpy()
        assert (trials[0].excluded == (from_3[:, None] & in_2)).all()
        assert_same_figures(trials[4:5], metrics[4:5], see, np.arange(3, 3803, 190))


@official
def test_regdb_figures_are_those_of_the_definition(trees):
    "Both directions, of which each has its own queries; split 2, whose lists are official too."
    table = test_of(read_regdb(trees["regdb"]), "2").table
    questions, see = QUESTIONS["regdb"](table), random_similarity(table)
    found = [(t.query_subset, t.gallery_subset, len(t.query), len(t.gallery)) for t, in questions]
    assert found == [(("rgb",), ("ir",), 2060, 2060), (("ir",), ("rgb",), 2060, 2060)]
    ranked = rank_questions(questions, see)
    for trials, metrics in zip(questions, ranked): assert_same_figures(trials, metrics, see, np.arange(0, 2060, 20))
    assert ranked[0][0].mAP != ranked[1][0].mAP and not questions[0][0].excluded.any()


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, "tests")
from test_real_data import QUESTIONS, rank_questions, read_sysu, test_of
table = test_of(read_sysu(Path(sys.argv[1]))).table
e = np.random.default_rng(0).normal(size=(len(table), 2048)).astype(np.float32)
e /= np.linalg.norm(e, axis=1, keepdims=True)
ranked = rank_questions(QUESTIONS["sysu"](table), lambda q, _, g, __: e[q] @ e[g].T)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, sum(map(len, ranked)))
"""


@official
def test_all_of_sysu_is_ranked_in_two_gigabytes(trees):
    "Eighty galleries at 2,048 dimensions; `make bench` times them."
    done = run(sys.executable, "-c", MEMORY, trees["sysu"], root=ROOT)
    assert done.returncode == 0, done.stderr
    gigabytes, trials = map(float, done.stdout.split())
    assert trials == 80 and gigabytes < 2


def without_a_person(name, root):
    "Take one training identity out of the lists; returns {file: its former content}."
    files = sorted((root / "idx").glob("*.txt")) if name == "regdb" else [root / "exp/train_id.txt"]
    before = {file: file.read_bytes() for file in files}
    for file, text in before.items():
        lines = [line for line in text.splitlines(keepends=True) if b"/7/" not in line]
        file.write_bytes(b"".join(lines) if name == "regdb" else text.partition(b",")[2])
    return before


@official
@pytest.mark.parametrize("name, read, folder", [("regdb", read_regdb, "Thermal/7"), ("sysu", read_sysu, "cam6/0001")])
def test_only_a_whole_dataset_bears_the_name(trees, tmp_path, name, read, folder):
    "And not one without an image, or without a person."
    root = trees[name]
    whole = read(root).info
    assert whole.incomplete == [] and whole.label == name
    image = next((root / folder).iterdir())
    image.rename(tmp_path / "image")
    short = read(root).info
    (tmp_path / "image").rename(image)
    assert short.label == f"{name} (incomplete copy)" and any(folder in sentence for sentence in short.incomplete)
    before = without_a_person(name, root)
    gone = read(root).info
    for file, text in before.items(): file.write_bytes(text)
    fewer = "411 identities, officially 412" if name == "regdb" else "295 train identities, officially 296"
    assert gone.label == f"{name} (incomplete copy)" and fewer in gone.incomplete and read(root).info.label == name


@official
@pytest.mark.parametrize("name, images", [("regdb", 8240), ("sysu", 44745)])
def test_a_whole_dataset_passes_the_check(trees, name, images):
    done = subprocess.run([*CHECK, name, trees[name]], env=environment(ROOT), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    line, = done.stdout.splitlines()
    found = json.loads(line)
    assert found["images"] == images and found["problems"] == 0 and sum(found["identity"].values()) == images
    if name == "sysu":
        assert found["unlisted"] == 22
        assert found["split"]["test"] == {"identities": 96, "images": {"rgb": 6775, "ir": 3803}}
    else:
        assert set(found["identity"].values()) == {20}
        assert found["split"]["test, split 2"] == {"identities": 206, "images": {"rgb": 2060, "ir": 2060}}


def bound_by_permissions():
    """In a new process before its program starts: give up root's right to read everything.

    These are CAP_DAC_OVERRIDE (1) and CAP_DAC_READ_SEARCH (2); 24 is PR_CAPBSET_DROP."""
    if os.getuid() == 0 and any(ctypes.CDLL(None).prctl(24, capability) for capability in (1, 2)): os._exit(77)


def run_bound(words):
    done = subprocess.run(words, env=environment(ROOT), capture_output=True, text=True, preexec_fn=bound_by_permissions)
    if done.returncode == 77: pytest.skip("root may read everything here and cannot give that up")
    return done


@pytest.mark.parametrize("name, folder, list_, change", [
    ("sysu", "cam5", "exp/test_id.txt", lambda text: text.replace("7,", "77,", 1)),
    ("regdb", "Thermal", "idx/train_visible_3.txt", lambda text: text.replace(" 0", " 1", 1)),
])
def test_the_check_names_every_fault(tmp_path, name, folder, list_, change):
    """Each of these is reported, and none by a traceback.

    A truncated image, a missing folder, a wrong list, a stray file, a file and a folder that may not be read."""
    root = {"regdb": lambda r: regdb_tree(r, people=8, each=10), "sysu": sysu_tree}[name](tmp_path / "data")
    is_image = lambda p: p.suffix in (".jpg", ".bmp") and not p.is_relative_to(root / folder)
    images = sorted(p.relative_to(root) for p in root.rglob("*") if is_image(p))
    cut, closed, shut, moved = images[0], images[1], images[50].parent, images[70]
    whole = (root / cut).read_bytes()
    (root / cut).unlink(), (root / cut).write_bytes(whole[:len(whole) // 2])
    whole = (root / closed).read_bytes()
    (root / closed).unlink(), (root / closed).write_bytes(whole), (root / closed).chmod(0)
    (root / shut).chmod(0)
    (root / moved).rename(root / "lost.jpg")
    shutil.rmtree(root / folder)
    (root / list_).write_text(change((root / list_).read_text()))
    done = run_bound([*CHECK, name, root, "--all"])
    assert done.returncode == 1 and "Traceback" not in done.stderr and json.loads(done.stdout)["problems"] > 5
    told = done.stderr.replace("\r", "\n").split("\n")
    one = lambda *parts: [line for line in told if all(part in line for part in parts)]
    assert one(f"{cut}: image cannot be read") and one(f"{closed}: image cannot be read", "Permission denied")
    assert one(f"{shut}: cannot be read (Permission denied)") and one(f"{folder}: no such folder")
    assert one("lost.jpg: unexpected file") and one(f"{moved}")
    assert one(list_) and any(one(what) for what in ("identity 0077 has no image", "in an earlier line"))
    short, count = run_bound([*CHECK, name, root]), json.loads(done.stdout)["problems"]
    (root / shut).chmod(0o755)
    lines = [line for line in short.stderr.replace("\r", "\n").split("\n") if line.strip()]
    assert len([line for line in lines if "checking images" not in line]) == min(count, 20) + (count > 20)
    assert count <= 20 or f"and {count - 20:,} more" in short.stderr


def test_a_check_of_nothing_says_what_to_put_where(tmp_path):
    done = run(*CHECK, "sysu", tmp_path / "SYSU-MM01", root=ROOT)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "put SYSU-MM01 there: the folders cam1 to cam6 and exp" in done.stderr


def test_a_run_opens_regdb_with_its_own_split(small, tmp_path):
    packed = pack_dataset(read_regdb(small["regdb"]), tmp_path / "packed", 96, 32)
    runs = [packed.for_run(k) for k in (1, 2)]
    for k, own in zip((1, 2), runs):
        training = own.only("train")
        assert sorted(set(training.table.identity)) == packed.info.runs[str(k)]["train"]
        pixels = packed.arrays["rgb"][training.rows[training.rows[:, 0] >= 0, 0]] / 255
        for name, value in (("mean", pixels.mean((0, 1, 2))), ("std", pixels.std((0, 1, 2)))):
            assert np.allclose(own.statistics["rgb"][name], value, atol=1e-5)
    assert runs[0].statistics != runs[1].statistics and Packed.open(tmp_path / "packed").hash == packed.hash
    with pytest.raises(InputError, match="there is none for seed 11"): packed.for_run(11)


def test_sysu_trains_on_validation_identities_or_holds_them_out(small, tmp_path):
    packed = pack_dataset(read_sysu(small["sysu"]), tmp_path / "packed", 96, 32)
    count = lambda packed: packed.table.groupby("split").identity.nunique().to_dict()
    held_out, trained_on = packed.for_run(1), packed.for_run(1, "trained_on")
    assert count(held_out) == {"train": 6, "val": 4, "test": 6} and count(trained_on) == {"train": 10, "test": 6}
    assert held_out.statistics != trained_on.statistics


def test_estimated_depth_is_called_pseudo_everywhere(small, tmp_path):
    "With a tiny estimator of random weights: a third modality, in the rows of its RGB images, named in every setting."
    pytest.importorskip("transformers", reason="transformers, with which depth is estimated, is not installed")
    from mmreid.data.pseudo_depth import tiny_estimator, with_pseudo_depth
    packed = pack_dataset(read_regdb(small["regdb"]), tmp_path / "packed", 96, 32)
    packed = with_pseudo_depth(packed, str(tiny_estimator(tmp_path / "model")))
    assert packed.modalities == ("rgb", "ir", "pseudo-depth") and (packed.rows[:, 2] == packed.rows[:, 0]).all()
    assert packed.for_run(2).statistics.keys() == {*packed.modalities}
    test = joined_by_identity(packed.for_run(2).only("test"))
    full = (test.rows >= 0).all(1)
    assert full.all() and (test.rows[:, 2] == test.rows[:, 0]).all()
    random = np.random.default_rng(0)
    see = cosine_similarity({s: random.normal(size=(len(test.table), 8)) for s in subsets(test.modalities)})
    evaluate = load_params(ROOT / "params.yaml").chosen.evaluate
    labels = dict(dataset="regdb", profile="p", variant="v", seed=2, device="cpu")
    metrics = measure_official(test, see, evaluate, **labels).metrics
    assert metrics.setting.str.endswith(", with pseudo-depth").all()
    assert headlines(metrics).query("protocol == 'official'").empty
    assert len(metrics[(metrics.protocol == "paired") & (metrics.metric == "rank1")]) == 49


def test_the_console_command_is_declared():
    assert 'mmreid-data = "mmreid.data.check:main"' in (ROOT / "pyproject.toml").read_text()
