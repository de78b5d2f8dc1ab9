"The whole pipeline on a handful of people: what it leaves, repeats, runs again, and what survives a kill."
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from conftest import TRAINING, change_parameters, commit, environment, git, repro, run, shrunken
from filelock import FileLock

RESULTS = "results/quick"
NAME = "rendered-full-1"       # the variant with every part, and with adversaries
TRAIN = f"train@{NAME}"
STAGES = [f"{stage}@{NAME}" for stage in ("train", "evaluate", "analyse")]
LEARNED = [f"{RESULTS}/curves/{NAME}/plots/metrics/train/loss.tsv", f"{RESULTS}/models/{NAME}/model.safetensors",
           f"{RESULTS}/notebooks/train-{NAME}.ipynb"]
REFERENCES = "references@rendered"


def training(**changes): return lambda value: value["profiles"]["quick"]["train"].update(changes)


def contents(root, paths): return {path: (root / path).read_bytes() for path in paths}


def copied(root, target): return Path(shutil.copytree(root, target, symlinks=True))


@pytest.fixture
def done(first, tmp_path):
    "A copy of that run, to be changed."
    return copied(first, tmp_path / "done")


def test_the_order_of_the_stages(first_run):
    "As DVC printed it: the data, then each run, then what is made from all."
    ran = first_run[1]
    assert ran[:3] == ["prepare", "render", "pack@rendered"] and {*ran[3:-1]} == {REFERENCES, *STAGES}
    assert ran[-1] == "report"


def test_the_table_of_metrics(first):
    metrics = pd.read_csv(first / RESULTS / "metrics.csv", dtype={"seed": str})
    columns = "dataset profile variant protocol setting scenario query_modalities gallery_modalities seed"
    assert list(metrics) == [*columns.split(), "metric", "value", "low", "high", "device"]
    assert set(metrics.variant) == {"full", "histogram", "background", "frozen"}
    assert set(metrics.protocol) == {"fused", "concatenated", "single", "any", "scenario"}
    assert set(metrics.metric) == {"rank1", "rank5", "rank10", "rank20", "mAP", "mINP", "chance"}
    assert set(metrics[metrics.variant == "full"].seed) == {"1"} and set(metrics.seed) == {"1", "none"}
    assert metrics.value.between(0, 100).all() and (metrics.low <= metrics.high).all()
    learned = metrics.query("variant == 'full' and metric == 'rank1'")
    assert len(learned.query("protocol == 'any'")) == 49
    headline = json.loads((first / RESULTS / f"runs/{NAME}.json").read_text())
    assert headline["fused"]["rank1"] == pytest.approx(learned.query("protocol == 'fused'").value.item(), abs=1e-3)
    shown = run("dvc", "metrics", "show", root=first)
    assert shown.returncode == 0 and "fused" in shown.stdout


def test_the_tables_of_claims_and_facts(first):
    claims, facts = (pd.read_csv(first / RESULTS / f"{name}.csv") for name in ("claims", "facts"))
    assert set(claims.dataset) == {"regdb", "sysu", "rendered"}
    assert not ((claims.dataset == "rendered") & claims.verdict.str.contains("reproduced")).any()
    verdicts = claims.groupby("kind").verdict.agg(set)
    assert verdicts["weight"] == {"needs seeds"} and verdicts["ordering"] == {"not run"}
    by_chance = {"shuffled", "variance"}
    measured = {"lost", "noise", "height", "probe", "weight", "change", "ceiling", "chosen"}
    assert set(facts.kind) == measured | by_chance
    weights = facts[facts.kind == "weight"].groupby("condition").value.sum()
    assert len(weights) == 6 and (weights - 1).abs().max() < 1e-3


def test_git_holds_no_arrays_and_no_models(first):
    files = git(first, "ls-files", "-z").stdout.split("\0")[:-1]
    assert not [p for p in files if p.endswith((".npy", ".npz", ".safetensors")) and not p.startswith("mmreid")]
    kept_by_dvc = ("models", "curves", "evaluations", "analyses", "notebooks", "curves.csv")
    assert not [p for p in files if p.startswith(tuple(f"{RESULTS}/{name}" for name in kept_by_dvc))]
    assert {f"{RESULTS}/{p}" for p in ("metrics.csv", "facts.csv", "claims.csv", "people.png")} <= set(files)


def test_a_second_run_runs_nothing(first):
    started = time.monotonic()
    assert repro(first) == []
    assert git(first, "status", "--porcelain").stdout == ""
    print(f"{time.monotonic() - started:.1f} s")


def kill_in_training(root):
    "Start the pipeline, kill everything once a checkpoint lies on the disk, and wait until all is quiet."
    saved = lambda: list((root / ".state/train").glob("*.safetensors"))
    process = subprocess.Popen(["dvc", "repro", TRAIN], cwd=root, env=environment(root), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    end = time.monotonic() + 300
    while not saved() and process.poll() is None and time.monotonic() < end: time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = saved()
    assert left, "training ended before it could be killed"
    assert not (root / f"{RESULTS}/models/{NAME}/model.safetensors").exists()
    with FileLock(root / f".state/locks/train-{NAME}.lock", timeout=20): return left[0]     # the runner has ended too


def test_the_same_bytes_in_another_clone_and_after_a_kill(first, tmp_path):
    """A run that was killed in its training and then completed equals an unbroken run in another clone.

    The lock file holds the hashes of every output, executed notebooks among them; its order is that of the runs."""
    other = shrunken(tmp_path)
    state = kill_in_training(other)
    assert {*repro(other)} == {REFERENCES, *STAGES, "report"} and not state.exists()
    locked = [yaml.safe_load((root / "dvc.lock").read_text()) for root in (first, other)]
    assert locked[0] == locked[1]
    outputs = [p.relative_to(first).as_posix() for p in sorted((first / RESULTS).rglob("*")) if p.is_file()]
    assert len(outputs) > 30
    assert [p for p, content in contents(first, outputs).items() if (other / p).read_bytes() != content] == []
    assert pd.read_csv(other / LEARNED[0], sep="\t").step.tolist() == list(range(TRAINING["steps"]))


def test_killed_then_changed_equals_fresh(first, done):
    "The state of the killed run belongs to other parameters, and the next run does not resume from it."
    change_parameters(done, training(learning_rate=0.003))
    state = kill_in_training(done)
    change_parameters(done, training(learning_rate=0.002))
    assert repro(done, "prepare") == [] and repro(done, "--force", "--single-item", TRAIN) == [TRAIN]
    assert contents(done, LEARNED) == contents(first, LEARNED) and state.exists()


def test_prose_trains_nothing(done):
    "Neither a sentence in a stage notebook, nor a docstring of the library, nor a comment in the parameters."
    path = done / "nbs/stages/train.ipynb"
    notebook = nbformat.read(path, 4)
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("A sentence.", id="sentence"))
    nbformat.write(notebook, path)
    library = done / "mmreid/training/loop.py"
    other = '# a comment\n        "In other words: one step;'
    library.write_text(library.read_text().replace('"One step;', other))
    assert "In other words" in library.read_text()
    (done / "params.yaml").write_text("# a comment\n" + (done / "params.yaml").read_text())
    assert repro(done) == ["prepare"]


def test_code_counts(done):
    "A change of the code of training would train again, and draw nothing again."
    library = done / "mmreid/losses/joint.py"
    library.write_text(library.read_text().replace("1 + 63 *", "1 + 62 *"))
    assert "62" in library.read_text()
    assert repro(done, "prepare") == ["prepare"]
    would = repro(done, "--dry")
    assert TRAIN in would and not {"render", "pack@rendered", "references@rendered"} & set(would)


STUDY = "study/dvc.yaml:"


def of_study(root, *words):
    "What `dvc repro` of the study's pipeline runs, or would run."
    return {name.removeprefix(STUDY) for name in repro(root, *words, "study/dvc.yaml")}


@pytest.fixture(scope="module")
def study(first, tmp_path_factory):
    "A copy of the first run in which `make study` ran too, two stages at a time."
    root = copied(first, tmp_path_factory.mktemp("study") / "tree")
    done = run("python", "-m", "mmreid.pipeline", "repro", "--study", "--jobs", "2", root=root)
    assert done.returncode == 0, done.stdout + done.stderr
    commit(root, "study")
    return root


def test_the_study_has_a_pipeline_of_its_own(study):
    "It runs by its own command; the default pipeline neither runs nor notices it."
    assert repro(study) == [] and of_study(study) == set()
    folder = study / RESULTS / "study"
    two = pd.read_csv(folder / "table-2/table-2.csv").set_index(["row", "dataset", "protocol", "metric"]).sort_index()
    assert two.measured["DDAG", "rendered", "fused", "rank1"].item() >= 0
    assert two.published["DDAG", "regdb", "official", "rank1"].item() == 69.34
    metrics = pd.read_csv(folder / "metrics.csv", dtype=str, keep_default_na=False)
    assert set(metrics.variant) == {"full", "histogram", "background", "frozen"}
    assert set(metrics.seed) == {"1", "2", "3", "all", "none"}       # 3 is one of `more_seeds`
    assert set(pd.read_csv(folder / "table-2/metrics.csv").variant) == {"full", "ddag"}
    files = git(study, "ls-files", "-z", f"{RESULTS}/study").stdout.split("\0")[:-1]
    assert files and not [p for p in files if p.endswith((".npz", ".safetensors", ".json"))]


def test_the_pipelines_have_trainings_of_their_own(study, tmp_path):
    "A change for one method leaves the default pipeline alone; one for all rows changes both."
    root = copied(study, tmp_path / "tree")
    change_parameters(root, lambda value: value["variants"]["ddag"]["losses"].update(graph=0.5))
    assert repro(root) == ["prepare"]
    own = {f"{stage}@rendered-ddag-{seed}" for stage in ("train", "evaluate") for seed in (1, 2)}
    assert of_study(root, "--dry") == {*own, "compare"}
    change_parameters(root, training(steps=5))
    assert repro(root, "prepare") == ["prepare"] and TRAIN in repro(root, "--dry")
    assert {"train@rendered-full-2", "train@rendered-ddag-1"} < of_study(root, "--dry")


def test_datasets_are_versioned(done):
    "Change the seed of the data, run, commit; the commit before still has its arrays and its metrics."
    before = contents(done, ["data/packed/rendered/rgb.npy", f"{RESULTS}/runs/rendered-histogram.json"])
    change_parameters(done, lambda value: value["profiles"]["quick"]["rendered"].update(seed=7))
    assert repro(done, "references") == ["prepare", "render", "pack@rendered", "references@rendered"]
    commit(done, "another world")
    after = contents(done, before)
    assert all(before[path] != after[path] for path in before)
    assert "fused" in run("dvc", "metrics", "diff", "HEAD~1", root=done).stdout
    assert "rendered.seed" in run("dvc", "params", "diff", "HEAD~1", root=done).stdout
    git(done, "checkout", "-q", "HEAD~1")
    assert run("dvc", "checkout", "dvc.yaml", root=done).returncode == 0     # the study has never been run here
    assert contents(done, before) == before


def test_a_bad_parameter_stops_before_anything_runs(done):
    change_parameters(done, training(stepps=3))
    stopped = run("dvc", "repro", root=done)
    assert stopped.returncode != 0 and "profiles.quick.train.stepps: unknown key" in stopped.stderr


def stage(root, *words): return run("python", "-m", "mmreid.pipeline", "run", *words, root=root)


def test_a_truncated_image_is_named(done):
    image = sorted((done / "data/rendered").rglob("*.png"))[5]
    image.chmod(0o644)
    image.write_bytes(image.read_bytes()[:50])
    stopped = stage(done, "pack", "dataset=rendered")
    assert stopped.returncode == 1 and image.name in stopped.stderr
    assert "samples.csv line" in stopped.stderr and "Traceback" not in stopped.stderr


def test_a_full_disk_is_named_and_nothing_is_lost(done):
    "No file may grow beyond a limit: what a full disk does to the arrays."
    before = contents(done, ["data/packed/rendered/rgb.npy"])
    stopped = run("bash", "-c", "ulimit -f 100; exec python -m mmreid.pipeline run pack dataset=rendered", root=done)
    assert stopped.returncode == 1 and "no room on the disk" in stopped.stderr and "Traceback" not in stopped.stderr
    assert contents(done, before) == before


def test_a_checkpoint_of_another_architecture_is_named(done):
    settings = done / "results/prepared/evaluate/full.yaml"
    settings.write_text(settings.read_text().replace("branch_dim: 8", "branch_dim: 16"))
    stopped = stage(done, "evaluate", "dataset=rendered", "variant=full", "seed=1")
    assert stopped.returncode == 1
    assert "another architecture: model.branch_dim is 8, expected 16" in stopped.stderr


TOY = '''#| default_exp methods.toy_mean
%%
#| export
from torch import nn
from torch.nn import functional as F

from mmreid.methods.registry import Method
from mmreid.models.network import Embedding, Network, whole
%%
#| export
class ToyMean(Network):
    "One linear layer on the mean colours of eight fields, averaged over the images of a pass."
    def __init__(self, modalities, model, variant):
        super().__init__(modalities, model, variant)
        self.projection = nn.Linear(3 * 8, 3 * model.branch_dim)

    def forward(self, images, present, passes=None):
        passes = passes or whole(present)
        fields = F.adaptive_avg_pool2d(images.flatten(0, 1), (4, 2)).unflatten(0, images.shape[:2]).flatten(2)
        mask = passes.mask[:, :, None].float()
        h = self.projection((fields[passes.owner] * mask).sum(1) / mask.sum(1))
        z = self.neck(h)
        return Embedding(h, z, F.normalize(z))

METHOD = Method(ToyMean)'''
EXPORT = "from nbdev.export import nb_export; nb_export('nbs/6_compared_methods/99_toy.ipynb', 'mmreid')"


def prepared(root): return contents(root, [p.relative_to(root) for p in (root / "results/prepared").rglob("*.*")])


def test_a_method_is_one_notebook_and_one_line(done):
    """And its name in a list of rows. Only its stages and the report run, then and after a change of its loss.

    The files of all other variants keep their bytes."""
    cells = [nbformat.v4.new_code_cell(source) for source in TOY.split("\n%%\n")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), done / "nbs/6_compared_methods/99_toy.ipynb")
    exported = run("python", "-c", EXPORT, root=done)
    assert exported.returncode == 0 and (done / "mmreid/methods/toy_mean.py").is_file(), exported.stderr
    before, text = prepared(done), (done / "params.yaml").read_text()
    text = text.replace("\nvariants:\n", "\nvariants:\n  toy: {base: baseline, method: {name: toy_mean}}\n")
    (done / "params.yaml").write_text(text.replace("main_variants:\n", "main_variants:\n- toy\n"))
    stages = ("train", "evaluate")
    own = sorted(f"{stage}@rendered-toy-1" for stage in stages)
    assert sorted(repro(done)) == sorted(["prepare", *own, "report"])
    after = prepared(done)
    new = {Path("results/prepared", stage, f"toy{suffix}") for stage in stages for suffix in (".py", ".yaml")}
    assert after.keys() - before.keys() == new
    assert [path for path in before if before[path] != after[path]] == [Path("results/prepared/report.yaml")]
    rows = set(pd.read_csv(done / RESULTS / "metrics.csv").variant)
    assert rows == {"full", "toy", "histogram", "background", "frozen"}
    change_parameters(done, lambda value: value["variants"]["toy"].update(losses={"classification": 0.5}))
    assert repro(done, "prepare") == ["prepare"] and sorted(repro(done, "--dry")) == own
