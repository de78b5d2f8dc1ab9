"The whole pipeline on a handful of people: what it leaves, what it repeats, what it runs again, and what survives a kill."
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from conftest import ROOT, change_parameters, environment, run, tracked
from filelock import FileLock

NAME = "rendered-full-1"       # the variant with every part, and with adversaries
TRAIN = f"train@{NAME}"
LEARNED = [f"results/curves/{NAME}/plots/metrics/train/loss.tsv", f"results/models/{NAME}/model.safetensors", f"results/notebooks/train-{NAME}.ipynb"]


def shrink(value):
    "The quick profile for a few seconds: one variant, a dozen people, a network as small as the backbones allow, six steps."
    value["run"], value["rivals"] = ["full"], ["full", "ddag"]
    quick = value["profiles"]["quick"]
    quick["rendered"] |= {"identities": {"train": 6, "val": 4, "test": 4}, "tuples": 4}
    quick["pack"] |= {"height": 96, "width": 32}
    quick["model"]["width"] = 8
    for train in ("train", "train_rivals"): quick[train] |= {"identities_per_batch": 3, "tuples_per_identity": 2, "steps": 6, "warmup_steps": 2, "validate_every": 3, "checkpoint_every": 2}
    quick["evaluate"]["resamples"] = 100
    quick["compute"] = {"threads": 1, "precision": "fp32"}


def copy_of_the_tree(root):
    "The working tree without results, shrunken, as a git repository with one commit."
    for path in tracked():
        if path.startswith("results/") or path == "dvc.lock": continue
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, root / path)
    change_parameters(root, shrink)
    git(root, "init", "-q"), commit(root, "shrunken")
    return root


def git(root, *words): return subprocess.run(["git", "-c", "user.name=test", "-c", "user.email=test@localhost", *words], cwd=root, check=True, capture_output=True, text=True)


def commit(root, message): git(root, "add", "-A"), git(root, "commit", "-q", "-m", message)


def repro(root, *words):
    "Run `dvc repro`; returns the names of the stages that ran."
    done = run("dvc", "repro", *words, root=root)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")]


def contents(root, paths): return {path: (root / path).read_bytes() for path in paths}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    "One whole run in a copy of the tree, committed."
    root = copy_of_the_tree(tmp_path_factory.mktemp("first"))
    assert repro(root) == ["code", "render", "pack@rendered", "references@rendered", f"train@{NAME}", f"evaluate@{NAME}", f"analyse@{NAME}", "report"]
    commit(root, "results")
    return root


@pytest.fixture
def done(first, tmp_path):
    "A copy of that run, to be changed."
    return Path(shutil.copytree(first, tmp_path / "done", symlinks=True))


def test_what_it_leaves(first):
    metrics = pd.read_csv(first / "results/metrics.csv")
    assert list(metrics)[:12] == "dataset profile variant protocol query gallery scenario seed metric value low high".split()
    assert set(metrics.variant) == {"full", "histogram", "background"} and set(metrics.protocol) == {"fused", "single", "any", "scenario"}
    assert set(metrics.metric) == {"rank1", "rank5", "rank10", "rank20", "mAP", "mINP", "chance"}
    assert metrics.value.between(0, 100).all() and (metrics.low <= metrics.high).all()
    assert len(metrics[(metrics.variant == "full") & (metrics.protocol == "any") & (metrics.metric == "rank1")]) == 49
    fused = json.loads((first / f"results/evaluations/{NAME}/metrics.json").read_text())["fused"]["rgb+ir+depth"]
    row = metrics.query("variant == 'full' and protocol == 'fused' and metric == 'rank1'").iloc[0]
    assert abs(row.value - fused["rank1"]) < 1e-3
    assert not [p for p in git(first, "ls-files").stdout.split() if p.endswith((".npy", ".npz", ".safetensors")) and not p.startswith("mmreid")]
    claims, facts = (pd.read_csv(first / f"results/{name}.csv") for name in ("claims", "facts"))
    assert "verdict" in claims and set(claims.dataset) == {"regdb", "sysu", "rendered"} and not ((claims.dataset == "rendered") & claims.verdict.str.contains("reproduced")).any()
    assert set(claims[claims.kind == "weight"].verdict) <= {"holds", "does not hold", "undecided"} and set(claims[claims.kind == "ordering"].verdict) == {"not run"}
    assert set(facts.kind) == {"lost", "noise", "height", "probe", "weight", "shuffled"}
    weights = facts[facts.kind == "weight"].groupby("condition").value.sum()
    assert len(weights) == 6 and (weights - 1).abs().max() < 1e-3
    shown = run("dvc", "metrics", "show", root=first)
    assert shown.returncode == 0 and "fused" in shown.stdout


def test_a_second_run_runs_nothing(first):
    started = time.monotonic()
    assert repro(first) == []
    assert git(first, "status", "--porcelain").stdout == ""
    print(f"{time.monotonic() - started:.1f} s")


def test_the_same_bytes_in_another_clone(first, tmp_path):
    other = copy_of_the_tree(tmp_path)
    repro(other)
    assert (other / "dvc.lock").read_text() == (first / "dvc.lock").read_text()      # hashes of every output, executed notebooks among them
    outputs = [p.relative_to(first).as_posix() for folder in ("results/notebooks", "results/evaluations", "results/tables", "results/figures") for p in sorted((first / folder).rglob("*")) if p.is_file()]
    different = [p for p, content in contents(first, outputs).items() if (other / p).read_bytes() != content]
    assert different == []


def test_prose_trains_nothing(done):
    "Neither a sentence in a stage notebook, nor one in a module notebook, nor a docstring of the library."
    path = done / "nbs/stages/train.ipynb"
    notebook = nbformat.read(path, 4)
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("A sentence.", id="sentence"))
    nbformat.write(notebook, path)
    library = done / "mmreid/training.py"
    library.write_text(library.read_text().replace('"One step: its figures as a dict', '# a comment\n        "One step, in other words'))
    assert "in other words" in library.read_text()
    assert repro(done) == ["code"]


def test_code_counts(done):
    "A change of the code of training would train again, and draw nothing again."
    library = done / "mmreid/losses/joint.py"
    library.write_text(library.read_text().replace("1 + 63 *", "1 + 62 *"))
    assert "62" in library.read_text()
    assert repro(done, "code") == ["code"]
    would = repro(done, "--dry")
    assert TRAIN in would and "render" not in would and "pack@rendered" not in would and "references@rendered" not in would


def test_one_variant_is_one_variant(done):
    "A second variant runs its own stages and the report; changing its loss weight does so again."
    def second(value):
        value["variants"]["other"] = json.loads(json.dumps(value["variants"]["baseline"]))
        value["run"] = ["full", "other"]
    change_parameters(done, second)
    assert repro(done) == ["train@rendered-other-1", "evaluate@rendered-other-1", "analyse@rendered-other-1", "report"]
    change_parameters(done, lambda value: value["variants"]["other"]["losses"].update(classification=0.5))
    assert repro(done) == ["train@rendered-other-1", "evaluate@rendered-other-1", "analyse@rendered-other-1", "report"]
    assert set(pd.read_csv(done / "results/metrics.csv").variant) == {"full", "other", "histogram", "background"}


def test_rivals_have_a_pipeline_of_their_own(done):
    "Their training and their table run when they are asked for; the default pipeline neither runs nor notices them."
    ran = repro(done, "rivals/dvc.yaml")
    assert [name.removeprefix("rivals/dvc.yaml:") for name in ran] == [*(f"{stage}@rendered-{row}-1" for stage in ("train", "evaluate") for row in ("full", "ddag")), "rivals"]
    assert repro(done) == [] and repro(done, "rivals/dvc.yaml") == []
    two = pd.read_csv(done / "results/rivals/tables/table-2.csv").set_index(["row", "dataset", "protocol", "metric"])
    assert two.measured["DDAG", "rendered", "fused", "rank1"] >= 0 and two.published["DDAG", "regdb", "official", "rank1"] == 69.34
    assert set(pd.read_csv(done / "results/rivals/metrics.csv").variant) == {"full", "ddag"}
    commit(done, "rivals")
    assert not [p for p in git(done, "ls-files", "results/rivals").stdout.split() if p.endswith((".npz", ".safetensors"))]
    change_parameters(done, lambda value: value["variants"]["ddag"]["losses"].update(graph=0.5))
    assert repro(done) == [] and len(repro(done, "rivals/dvc.yaml")) == 3
    change_parameters(done, lambda value: value["profiles"]["quick"]["train_rivals"].update(steps=5))
    assert repro(done) == [] and len(repro(done, "rivals/dvc.yaml")) == 5


def test_datasets_are_versioned(done):
    "Change the seed of the data, run, commit; the commit before still has its arrays and its metrics."
    before = contents(done, ["data/packed/rendered/rgb.npy", "results/metrics.csv"])
    change_parameters(done, lambda value: value["profiles"]["quick"]["rendered"].update(seed=7))
    repro(done)
    commit(done, "another world")
    after = contents(done, before)
    assert all(before[path] != after[path] for path in before)
    compared = run("dvc", "metrics", "diff", "HEAD~1", root=done)
    assert "fused" in compared.stdout and "rendered.seed" in run("dvc", "params", "diff", "HEAD~1", root=done).stdout
    git(done, "checkout", "-q", "HEAD~1")
    assert run("dvc", "checkout", root=done).returncode == 0
    assert contents(done, before) == before


def kill_in_training(root):
    "Start the pipeline, kill everything once a checkpoint lies on the disk, and wait until all is quiet."
    process = subprocess.Popen(["dvc", "repro", TRAIN], cwd=root, env=environment(root), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not list((root / ".state/train").glob("*.safetensors")) and process.poll() is None and time.monotonic() < end: time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = list((root / ".state/train").glob("*.safetensors"))
    assert left, "training ended before it could be killed"
    with FileLock(root / f".state/locks/train-{NAME}.lock", timeout=20): return left[0]     # the runner has ended too


def longer(value): value["profiles"]["quick"]["train"].update(steps=40, checkpoint_every=5, warmup_steps=5)


def test_killed_training_ends_in_the_same_bytes(done, tmp_path):
    unbroken = Path(shutil.copytree(done, tmp_path / "unbroken", symlinks=True))
    for root in (done, unbroken): change_parameters(root, longer)
    assert repro(unbroken, TRAIN) == [TRAIN]
    state = kill_in_training(done)
    assert not (done / f"results/models/{NAME}/model.safetensors").exists()
    assert repro(done, TRAIN) == [TRAIN]
    assert contents(done, LEARNED) == contents(unbroken, LEARNED) and not state.exists()
    steps = pd.read_csv(done / LEARNED[0], sep="\t").step
    assert steps.tolist() == list(range(40))


def test_killed_then_changed_equals_fresh(done, tmp_path):
    "The state of the killed run belongs to other parameters and is not taken up."
    fresh = Path(shutil.copytree(done, tmp_path / "fresh", symlinks=True))
    change_parameters(done, longer)
    state = kill_in_training(done)
    for root in (done, fresh): change_parameters(root, lambda value: value["profiles"]["quick"]["train"].update(steps=8, checkpoint_every=5, warmup_steps=2, learning_rate=0.002))
    assert repro(done, TRAIN) == repro(fresh, TRAIN) == [TRAIN]
    assert contents(done, LEARNED) == contents(fresh, LEARNED) and state.exists()


def test_a_bad_parameter_stops_before_anything_runs(done):
    change_parameters(done, lambda value: value["profiles"]["quick"]["train"].update(stepps=3))
    stopped = run("dvc", "repro", root=done)
    assert stopped.returncode != 0 and "profiles.quick.train.stepps: unknown key" in stopped.stderr


def test_a_truncated_image_is_named(done):
    image = sorted((done / "data/rendered").rglob("*.png"))[5]
    image.chmod(0o644)
    image.write_bytes(image.read_bytes()[:50])
    stopped = run("python", "-m", "mmreid.pipeline.stages", "run", "pack", "dataset=rendered", root=done)
    assert stopped.returncode == 1 and image.name in stopped.stderr and "samples.csv line" in stopped.stderr and "Traceback" not in stopped.stderr


def test_a_full_disk_is_named_and_nothing_is_lost(done):
    "No file may grow beyond a limit: what a full disk does to the arrays."
    before = contents(done, ["data/packed/rendered/rgb.npy"])
    stopped = run("bash", "-c", "ulimit -f 100; exec python -m mmreid.pipeline.stages run pack dataset=rendered", root=done)
    assert stopped.returncode == 1 and "no room on the disk" in stopped.stderr and "Traceback" not in stopped.stderr
    assert contents(done, before) == before


def test_a_checkpoint_of_another_architecture_is_named(done):
    change_parameters(done, lambda value: value["profiles"]["quick"]["model"].update(width=16))
    stopped = run("python", "-m", "mmreid.pipeline.stages", "run", "evaluate", "dataset=rendered", "variant=full", "seed=1", root=done)
    assert stopped.returncode == 1 and "another architecture: model.width is 8, expected 16" in stopped.stderr
