"What is written in two places is the same in both."
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
from mmreid.config import resolved
from mmreid.methods.registry import load_params
from mmreid.pipeline.stages import STAGES

PIPELINE_ONLY = ["nbdev", "execnb", "papermill", "nbformat", "nbclient", "dvc", "dvclive", "jupyter_client",
                 "ipykernel", "filelock", "embreex", "anny", "seaborn", "matplotlib", "sklearn", "joblib", "scipy",
                 "psutil", "pytest", "hypothesis", "IPython", "git"]
EXTRAS = ("mmreid.report.figures", "mmreid.gallery.demo")     # modules that draw, or show widgets


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
    """The stages of both pipelines by their names in STAGES, but for `prepare`.

    Those of study/dvc.yaml that dvc.yaml has too are `study-…`; `more-…` are the same for more seeds."""
    ours, theirs = stages_of("dvc.yaml"), stages_of("study/dvc.yaml")
    theirs = {name: stage for name, stage in theirs.items() if not name.startswith("more-")}
    del ours["prepare"]
    return ours | {f"study-{name}" if name in ours else name: stage for name, stage in theirs.items()}


def test_the_pipelines_have_these_stages(): assert set(pipeline()) == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_its_prepared_files(stage):
    "On its own code and settings, and on no other stage's; beside those, on data and results only."
    own = f"{stage}/${{item.variant}}" if "variant" in STAGES[stage].arguments else stage
    dependencies = pipeline()[stage]["deps"]
    prepared = {path for path in dependencies if path.startswith("results/prepared")}
    assert prepared == {f"results/prepared/{own}.py", f"results/prepared/{own}.yaml"}
    assert all(path.startswith(("data/", "results/${profile}/")) for path in set(dependencies) - prepared)
    assert "params" not in pipeline()[stage]


def test_settings_and_code_are_prepared_from_everything():
    prepare = stages_of("dvc.yaml")["prepare"]
    assert prepare["cmd"] == "exec python -m mmreid.pipeline prepare" and prepare["outs"] == ["results/prepared"]
    assert set(prepare["deps"]) == {"params.yaml", "mmreid", "nbs/stages"}


@pytest.mark.parametrize("stage", STAGES)
def test_pipeline_runs_a_stage_with_its_arguments(stage):
    "And hands its process over (exec), so that the runner sees dvc die."
    names = STAGES[stage].arguments
    item = {"dataset": "${item}"} if names == ("dataset",) else {name: f"${{item.{name}}}" for name in names}
    words = [f"exec python -m mmreid.pipeline run {stage}", *(f"{name}={value}" for name, value in item.items())]
    assert pipeline()[stage]["cmd"] == " ".join(words)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_writes_where_it_is_told(stage):
    "Below its profile's folder; each run of it an executed notebook of its own."
    values = {"dataset": "${item}"} if STAGES[stage].arguments == ("dataset",) else {}
    run_of = "-".join([stage, *(values.get(name, f"${{item.{name}}}") for name in STAGES[stage].arguments)])
    paths = {path for out in pipeline()[stage]["outs"] for path in (out if isinstance(out, dict) else [out])}
    assert f"results/${{profile}}/notebooks/{run_of}.ipynb" in paths
    folder = f"results/${{profile}}{STAGES[stage].folder}/"
    assert all(path.startswith((folder, "data/", "results/${profile}/notebooks/")) for path in paths)


@pytest.mark.parametrize("stage", ["train", "evaluate", "analyse", "report"])
def test_the_study_runs_the_stages_of_the_pipeline(stage):
    "But for the lists of variants and seeds, the prepared files, the folder of results, and what git holds of them."
    text = yaml.safe_dump(stages_of("dvc.yaml")[stage], width=1000)
    changes = [("${main_variants}", "${study.rows}"), ("${analysed_variants}", "${study.analysed_variants}"),
               ("${seeds}", "${study.seeds}"), (f" run {stage}", f" run study-{stage}"),
               (f"prepared/{stage}", f"prepared/study-{stage}"), (f"notebooks/{stage}", f"notebooks/study-{stage}")]
    for ours, theirs in changes: text = text.replace(ours, theirs)
    ours = yaml.safe_load(re.sub(r"(\$\{profile\})/(?!notebooks|references)", r"\1/study/", text))
    for path in ours.pop("metrics", []): ours["outs"] += list(path)      # a study has too many runs for git
    assert stages_of("study/dvc.yaml")[stage] == ours | {"wdir": ".."}


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_more_seeds_change_nothing_else(stage):
    study = stages_of("study/dvc.yaml")
    own = {"variant": "${study.more_seeds.rows}", "seed": "${study.more_seeds.seeds}"}
    assert study[f"more-{stage}"] == study[stage] | {"matrix": study[stage]["matrix"] | own}


def leaves(value, path=()):
    "Path -> value of everything in nested maps that is no map."
    if not isinstance(value, dict): return {path: value}
    return {place: leaf for key, inner in value.items() for place, leaf in leaves(inner, (*path, key)).items()}


def parameters(path=ROOT / "params.yaml"): return yaml.safe_load(path.read_text())


def test_an_override_changes_one_value(tmp_path):
    "With `dvc exp run -S`; what an anchor shares would change in several places, or in none."
    from dvc.utils.hydra import apply_overrides
    before, groups = leaves(parameters()), (("profiles", "quick"), ("profiles", "paper"), ("variants", "full"))
    numbers = [p for p in before if p[:2] in groups and isinstance(before[p], (int, float, bool))]
    assert len(numbers) > 50
    shutil.copy(ROOT / "params.yaml", tmp_path)
    apply_overrides(tmp_path / "params.yaml", [f"{'.'.join(place)}=77" for place in numbers])
    after = leaves(parameters(tmp_path / "params.yaml"))
    assert after.keys() == before.keys()
    assert {place: after[place] for place in before if after[place] != before[place]} == dict.fromkeys(numbers, 77)


def test_the_overrides_in_the_first_lines_of_the_parameters(tmp_path):
    from dvc.utils.hydra import apply_overrides
    shutil.copy(ROOT / "params.yaml", tmp_path)
    head = " ".join(line.strip("# ") for line in (ROOT / "params.yaml").read_text().split("\n\n")[0].splitlines())
    overrides = re.findall(r"-S (?:'([^']+)'|([^\s`]+))", head)
    assert len(overrides) == 3
    apply_overrides(tmp_path / "params.yaml", [quoted or plain for quoted, plain in overrides])
    params = load_params(tmp_path / "params.yaml")
    assert params.profile == "standard" and "mine" in params.main_variants
    assert params.variants["mine"].alignment == "raw" and params.variants["full"].alignment == "unit"


def test_ablations_change_one_thing():
    """Each variant `full-…`, its base filled in, differs from `full` in one place, or lacks one.

    `full-shared` is none of these: a control of Table 2, at the rate of its rows."""
    variants = resolved(parameters())["variants"]
    full = leaves(variants["full"])
    names = [name for name in variants if name.startswith("full-") and name != "full-shared"]
    ablations = {name: leaves(variants[name]) for name in names}
    for name, own in ablations.items():
        places = {p[:3] for p in full.keys() | own.keys() if full.get(p, "absent") != own.get(p, "absent")}
        assert len(places) == 1, (name, places)
    assert len(ablations) > 9


def test_library_needs_no_tool_of_the_pipeline():
    "Every module imports where torch, torchvision, numpy, pandas and little more are installed."
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in PIPELINE_ONLY)
    code = (f"import sys, pkgutil, importlib\n{blocked}import mmreid\n"
            f"for m in pkgutil.walk_packages(mmreid.__path__, 'mmreid.'):\n"
            f"    if not m.name.startswith({EXTRAS!r}): importlib.import_module(m.name)")
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
