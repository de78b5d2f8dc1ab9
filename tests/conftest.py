"What the tests share: the repository's root, its notebooks, and copies of its working tree."
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"          # before torch is imported, here and in all that a test starts
GPUS = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")}       # for cells marked cuda alone:
os.environ["CUDA_VISIBLE_DEVICES"] = ""      # all else compares bytes, and a GPU does not repeat them
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"    # where a stage has two threads, they do not burn the other tests' time

sys.modules.setdefault("rfc3987_syntax", None)     # a grammar that nbformat imports for seconds and does not need

import pytest
import yaml

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost")


def pytest_addoption(parser):
    parser.addoption("--flags", default="", help="run cells marked so too: 'slow cuda'")


PIPELINE = "tests/test_pipeline.py"
TOGETHER = {"tests/test_site.py": "tests/test_site.py", PIPELINE: PIPELINE, "tests/test_compare.py": PIPELINE,
            "tests/test_demo.py": "tests/test_demo.py",
            "tests/test_training_interruption.py": "tests/test_training_interruption.py",
            "tests/test_real_pipeline.py": "tests/test_real_pipeline.py",
            "tests/test_processes.py": "tests/test_processes.py"}              # {file: the group that it belongs to}
COURSE = "tests/test_course.py"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests of a file that share a costly first run stay in one process; all others go wherever there is room.

    The largest go first."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file, _, test = nodeid.partition("::")
            if file == COURSE and "[" in test: return f"{file}[{test.partition('[')[2]}"     # one lesson
            return TOGETHER.get(file, nodeid)
    return Scheduling(config, log)


@pytest.fixture(autouse=True, scope="session")
def interruptible():
    """All that a test starts can be interrupted, also if these tests run in the background.

    A shell lets its background processes ignore SIGINT, and a process inherits what its parent ignores, but not what
    its parent handles."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def flags(request):
    return request.config.getoption("--flags").split()


def tracked(root=ROOT):
    "The files of the working tree that git tracks or would track, relative to its root."
    words = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(words, cwd=root, check=True, capture_output=True, text=True).stdout
    return [path for path in listed.split("\0") if path and Path(root, path).is_file()]


def copy_of_the_tree(root, without=()):
    "Copy the working tree to the folder `root`, but for paths that begin with one of `without`."
    for path in tracked():
        if path.startswith(tuple(without)): continue
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, root / path)
    return root


def git(root, *words):
    "Run git in `root`; returns the finished process, its output as text."
    return subprocess.run([*GIT, *words], cwd=root, check=True, capture_output=True, text=True)


def commit(root, message="copy"):
    "Commit all that is in `root`, which becomes a repository if it is none."
    if not (root / ".git").exists(): git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", message)


def environment(root):
    "An environment in which the tools of this Python are found first, and the library of `root`."
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(root)}


def run(*words, root, **kwargs):
    "Run a command in `root`; returns the finished process, its output as text."
    return subprocess.run(words, cwd=root, env=environment(root), capture_output=True, text=True, **kwargs)


def repro(root, *words):
    "Run `dvc repro` in `root`; returns the names of the stages that ran."
    done = run("dvc", "repro", *words, root=root)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")]


def change_parameters(root, change):
    "Let `change` alter the parameters of the repository in `root`."
    value = yaml.safe_load((root / "params.yaml").read_text())
    change(value)
    (root / "params.yaml").write_text(yaml.safe_dump(value, sort_keys=False))


@pytest.fixture
def tree(tmp_path):
    "A copy of the working tree, in a git repository of its own with one commit."
    root = copy_of_the_tree(tmp_path / "tree")
    commit(root)
    return root


TRAINING = dict(batch_identities=3, batch_tuples=2, steps=12, warmup_steps=2, validate_every=6, checkpoint_every=2)


def shrink(value):
    "The quick profile for a few seconds: one variant, a dozen people, a network as small as possible, twelve steps."
    value |= {"main_variants": ["full"], "analysed_variants": ["full"]}
    value["study"] = {"rows": ["full", "ddag"], "analysed_variants": ["full"], "compared_methods": ["full", "ddag"],
                      "seeds": [1, 2], "more_seeds": {"rows": ["full"], "seeds": [3]}}
    quick = value["profiles"]["quick"]
    quick["rendered"] |= {"identities": {"train": 6, "val": 4, "test": 4}, "tuples": 4}
    quick["pack"] |= {"height": 96, "width": 32}
    quick["model"]["branch_dim"] = 8
    quick["train"] |= TRAINING
    quick["evaluate"]["resamples"] = 100
    quick["compute"] = {"threads": 1, "precision": "fp32"}


def shrunken(root):
    "The working tree without results, shrunken, as a git repository with one commit."
    copy_of_the_tree(root, without=("results/", "dvc.lock", "study/dvc.lock"))
    change_parameters(root, shrink)
    commit(root, "shrunken")
    return root


@pytest.fixture(scope="session")
def first_run(tmp_path_factory):
    "(folder, stages that ran) of one whole run of the shrunken pipeline, committed."
    root = shrunken(tmp_path_factory.mktemp("first"))
    ran = repro(root)
    commit(root, "results")
    return root, ran


@pytest.fixture(scope="session")
def first(first_run):
    "The folder of that run; read it, and change copies of it."
    return first_run[0]


@pytest.fixture(scope="session")
def kernels():
    "The class of a kernel manager whose kernels have the large libraries at once."
    from nursery import forked_kernels

    from mmreid.pipeline.kernel import kernel_manager
    with tempfile.TemporaryDirectory(prefix="mmreid-") as folder:       # a socket's path is short
        manager, process = forked_kernels(kernel_manager(), folder)
        yield manager
        process.kill()
        process.wait()
