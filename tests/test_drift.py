"What stands in two places says the same in both."
import configparser
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from conftest import BIN, ROOT, environment, run, tracked

import mmreid
from mmreid.pipeline.stages import STAGES

PIPELINE_ONLY = ["nbdev", "execnb", "papermill", "nbformat", "nbclient", "dvc", "dvclive", "jupyter_client", "ipykernel", "filelock", "embreex",
                 "anny", "seaborn", "matplotlib", "sklearn", "scipy", "psutil", "pytest", "hypothesis", "IPython", "git"]
PLOTTING = [f"mmreid.report.figures{part}" for part in ("", "_method", "_ranking", "_maps", "_claims")]     # belong to an extra


def test_library_is_what_the_notebooks_export(tree):
    "nbdev_export and nbdev_clean leave no difference."
    before = {path: (tree / path).read_bytes() for path in tracked(tree)}
    for tool in ("nbdev_export", "nbdev_clean"):
        done = run(str(BIN / tool), root=tree)
        assert done.returncode == 0, done.stderr
    after = {path: (tree / path).read_bytes() for path in tracked(tree)}
    assert sorted(p for p in before | after if before.get(p) != after.get(p)) == []


def stages_of(path):
    "The stages of a pipeline file: name -> the stage's own keys."
    stages = yaml.safe_load((ROOT / path).read_text())["stages"]
    return {name: stage.get("do", stage) for name, stage in stages.items()}


def pipeline():
    "The stages of both pipelines by their names in STAGES: those of rivals/dvc.yaml that dvc.yaml has too are `rivals-…`."
    ours, theirs = stages_of("dvc.yaml"), stages_of("rivals/dvc.yaml")
    return ours | {f"rivals-{name}" if name in ours else name: stage for name, stage in theirs.items()}


def tracked_parameters(stage):
    "The groups of params.yaml that a stage of dvc.yaml tracks, in the notation of STAGES."
    found = pipeline()[stage].get("params", [])
    return {re.sub(r"\$\{(?:item\.)?(\w+)\}", r"{\1}", key) for key in found}


@pytest.mark.parametrize("stage", STAGES)
def test_pipeline_tracks_what_a_stage_is_given(stage):
    assert tracked_parameters(stage) == set(STAGES[stage].config.values())


@pytest.mark.parametrize("stage", STAGES)
def test_pipeline_runs_a_stage_with_its_arguments(stage):
    "And hands its process over (exec), so that the runner sees dvc die; and depends on the stage's code."
    item = {"dataset": "${item}"} if STAGES[stage].arguments == ("dataset",) else {a: f"${{item.{a}}}" for a in STAGES[stage].arguments}
    words = " ".join([f"exec python -m mmreid.pipeline.stages run {stage}", *(f"{a}={value}" for a, value in item.items())])
    assert pipeline()[stage]["cmd"] == words
    assert f"results/code/{STAGES[stage].notebook or stage}.py" in pipeline()[stage]["deps"]


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_rivals_run_the_stages_of_the_pipeline(stage):
    "But for their list of variants, their group of training, their folder of results, and that DVC keeps nothing of them."
    text = yaml.safe_dump(stages_of("dvc.yaml")[stage], width=1000)
    for ours, theirs in (("${run}", "${rivals}"), (f" run {stage} ", f" run rivals-{stage} "), ("}.train", "}.train_rivals"), ("one variant with", "one row of Table 2 with"),
                         (f"notebooks/{stage}-", f"notebooks/rivals-{stage}-")): text = text.replace(ours, theirs)
    expected = yaml.safe_load(re.sub("results/(models|curves|evaluations)", r"results/rivals/\1", text))
    outs = [{path: {"cache": False}} for out in expected["outs"] for path in (out if isinstance(out, dict) else [out])]
    assert stages_of("rivals/dvc.yaml")[stage] == expected | {"wdir": "..", "outs": outs}


def leaves(value, path=()):
    "Path -> value of everything in nested maps that is no map."
    if not isinstance(value, dict): return {path: value}
    return {place: leaf for key, inner in value.items() for place, leaf in leaves(inner, (*path, key)).items()}


def test_an_override_changes_one_value(tmp_path):
    "With `dvc exp run -S`; what an anchor shares would change in several places, or in none."
    from dvc.utils.hydra import apply_overrides
    before = leaves(yaml.safe_load((ROOT / "params.yaml").read_text()))
    asked = [place for place in before if place[:2] in (("profiles", "quick"), ("profiles", "paper"), ("variants", "full")) and isinstance(before[place], (int, float, bool))]
    assert len(asked) > 70
    shutil.copy(ROOT / "params.yaml", tmp_path)
    apply_overrides(tmp_path / "params.yaml", [f"{'.'.join(place)}=77" for place in asked])
    after = leaves(yaml.safe_load((tmp_path / "params.yaml").read_text()))
    assert {place for place in before if after[place] != before[place]} == set(asked) and after.keys() == before.keys()
    assert {after[place] for place in asked} == {77}


def test_ablations_change_one_thing():
    "Each variant `full-…` differs from `full` in one value, or lacks one."
    variants = {name: leaves(value) for name, value in yaml.safe_load((ROOT / "params.yaml").read_text())["variants"].items()}
    full, ablations = variants["full"], [name for name in variants if name.startswith("full-")]
    for name in ablations:
        differing = {place for place in full.keys() | variants[name].keys() if full.get(place, "absent") != variants[name].get(place, "absent")}
        assert len({place[:2] for place in differing}) == 1, (name, differing)
    assert len(ablations) == 16


def test_library_needs_no_tool_of_the_pipeline():
    "Every module imports where torch, torchvision, numpy, pandas and little more are installed."
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in PIPELINE_ONLY)
    code = (f"import sys, pkgutil, importlib\n{blocked}import mmreid\nfor m in pkgutil.walk_packages(mmreid.__path__, 'mmreid.'):\n"
            f"    if m.name not in {PLOTTING}: importlib.import_module(m.name)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(ROOT), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_versions_agree():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    assert settings["DEFAULT"]["version"] == mmreid.__version__
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    assert [pin for pin in extras["dev"] if "==" in pin and pin not in lock] == []


def test_lock_names_no_host_and_no_path():
    lines = (ROOT / "requirements.lock").read_text().splitlines()[1:]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.+]+", line)] == []
