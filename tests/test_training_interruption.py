"The real training stage, killed at arbitrary steps: it ends in the same bytes as an unbroken run."
import shutil
import subprocess
import sys
import time

import psutil
import pytest
from conftest import ROOT, change_parameters, environment, run

from mmreid.data.toy import toy_dataset

MMREID = [sys.executable, "-m", "mmreid.pipeline"]
TRAIN = [*MMREID, "run", "train", "dataset=rendered", "variant=full", "seed=1"]
NAME = "rendered-full-1"
RESULTS = "results/quick"
STEPS, CHECKPOINT = 30, 4


def shorten(value):
    "The quick profile with a training of seconds."
    quick = value["profiles"]["quick"]
    quick["pack"] |= {"height": 96, "width": 32}
    quick["model"] |= {"backbone": "resnet10", "weights": "none", "branch_dim": 16}
    quick["train"] |= {"batch_identities": 4, "batch_tuples": 2, "steps": STEPS, "warmup_steps": 3,
                       "checkpoint_every": CHECKPOINT, "validate_every": 10}
    quick["compute"]["threads"] = 1


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    "A repository with the real stages and library, and a packed toy dataset."
    root = tmp_path_factory.mktemp("training")
    for folder in ("nbs/stages", "mmreid"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", root)
    change_parameters(root, shorten)
    toy_dataset(root / "data/rendered", people=16, size=(96, 32))
    for words in (["prepare"], ["run", "pack", "dataset=rendered"]):
        done = run(*MMREID, *words, root=root)
        assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def repository(packed, tmp_path):
    shutil.copytree(packed, tmp_path, dirs_exist_ok=True)
    return tmp_path


def written(root):
    "Everything that the training stage wrote, file by file."
    folders = [root / RESULTS / name for name in (f"models/{NAME}", f"curves/{NAME}", "notebooks")]
    files = [p for folder in folders for p in folder.rglob("*") if p.is_file() and "pack" not in p.name]
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def unbroken(packed, tmp_path_factory):
    root = tmp_path_factory.mktemp("unbroken")
    shutil.copytree(packed, root, dirs_exist_ok=True)
    assert resumed_at(root) == 0
    assert len(written(root)) >= 4
    return written(root)


def steps_logged(root):
    curve = root / f"{RESULTS}/curves/{NAME}/plots/metrics/train/loss.tsv"
    return [line.split("\t")[0] for line in curve.read_text().splitlines()[1:]] if curve.exists() else []


def kill_after(root, steps, victim):
    "Start training and kill -9 the runner or the kernel once at least `steps` steps are done."
    process = subprocess.Popen(TRAIN, cwd=root, env=environment(root), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    while len(steps_logged(root)) < steps and process.poll() is None: time.sleep(.005)
    assert process.poll() is None, "the training ended before it could be killed"
    kernel = psutil.Process(process.pid).children()[0]
    (process if victim == "runner" else kernel).kill()
    assert process.wait(20) != 0
    while kernel.is_running() and kernel.status() != psutil.STATUS_ZOMBIE: time.sleep(.01)
    assert STEPS > len(steps_logged(root)) and not (root / f"{RESULTS}/models/{NAME}").exists()


def states(root): return sorted((root / ".state/train").glob("[!.]*"))


def resumed_at(root):
    "Run the stage to its end; returns the step that it began with, by its progress bar."
    done = run(*TRAIN, root=root)
    assert done.returncode == 0, done.stderr
    return min(int(text.split("/")[0].split()[-1]) for text in done.stderr.split("training:")[1:])


def test_killed_training_resumes(repository, unbroken):
    "Killed before the first checkpoint, between two, and while one may be written; the runner or the kernel."
    for victim, steps in (("runner", 1), ("kernel", CHECKPOINT + 2), ("runner", 3 * CHECKPOINT)):
        kill_after(repository, steps, victim)
    assert len(states(repository)) == 1
    assert resumed_at(repository) >= 2 * CHECKPOINT
    assert written(repository) == unbroken
    assert steps_logged(repository) == [str(step) for step in range(STEPS)]
    assert list((repository / ".state/train").iterdir()) == []


def test_changed_code_after_a_kill(repository, unbroken):
    "A run never resumes from the state of other code, even if that computes the same."
    kill_after(repository, CHECKPOINT + 1, "runner")
    with open(repository / "mmreid/training/loop.py", "a") as file: file.write("\nunused = 1\n")
    assert run(*MMREID, "prepare", root=repository).returncode == 0
    assert resumed_at(repository) == 0 and written(repository) == unbroken
