"Processes are killed one by one: none survives unseen, none starts twice, and nothing half-done counts as whole."
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
import yaml
from conftest import ROOT, change_parameters, environment, run

from mmreid.methods.registry import load_params
from mmreid.pipeline.notebooks import settle
from mmreid.pipeline.stages import prepared_path, stage_settings

RUN = [sys.executable, "-m", "mmreid.pipeline", "run", "pack", "dataset=rendered"]
NOTEBOOKS = "results/quick/notebooks"
PARAMETERS = 'dataset = ""\nconfig = None'
WORK = """
import multiprocessing, time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from mmreid.core import progress
start = None if Path("finish").exists() else {start}
if start:
    pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(start))
    tasks = [pool.submit(time.sleep, 600) for _ in range(2)]
    while len(pool._processes) < 2: time.sleep(.01)
    time.sleep(.5)
    Path("working").touch()
    for _ in progress(range(10**6), desc="steps"): time.sleep(.05)
"""
WRITE = """
from pathlib import Path
Path("data/packed").mkdir(parents=True, exist_ok=True)
Path("data/packed/rendered").write_text("whole")
print("done")
"""


def small_repository(root, *cells):
    "A folder with a stage `pack` of these code cells and its settings, as they are prepared in the repository."
    (root / "nbs/stages").mkdir(parents=True)
    settings = prepared_path("pack", None, ".yaml", root)
    settings.parent.mkdir(parents=True)
    settings.write_text(yaml.safe_dump(stage_settings("pack", None, load_params(ROOT / "params.yaml"))))
    first = nbformat.v4.new_code_cell(PARAMETERS, id="first", metadata={"tags": ["parameters"]})
    cells = [first, *(nbformat.v4.new_code_cell(source, id=f"cell{i}") for i, source in enumerate(cells))]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "nbs/stages/pack.ipynb")
    return root


@pytest.fixture
def working(tmp_path):
    """A repository whose stage works, with two worker processes, until it is killed.

    If the file `finish` is there, the stage ends at once."""
    return small_repository(tmp_path, WORK.format(start="'fork'"), WRITE)


def start(root, words=RUN):
    "Start a command and wait until the stage is at work; returns the process and all its descendants."
    process = subprocess.Popen(words, cwd=root, env=environment(ROOT), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True)
    wait_for(lambda: (root / "working").exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    return process, psutil.Process(process.pid).children(recursive=True)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end: time.sleep(.05)
    assert condition()


def lives(process):
    try: return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess: return False


def assert_all_end(processes, seconds=10):
    "Every one of `processes` ends by itself; those that do not are killed before the test fails."
    end = time.monotonic() + seconds
    while any(map(lives, processes)) and time.monotonic() < end: time.sleep(.05)
    left = [p for p in processes if lives(p)]
    for p in left: p.kill()
    assert left == []


def test_a_child_can_be_interrupted():
    "What a test starts handles SIGINT."
    done = run(sys.executable, "-c", "import signal; signal.raise_signal(signal.SIGINT)", root=ROOT)
    assert done.returncode == -signal.SIGINT and done.stderr.endswith("KeyboardInterrupt\n")


def test_a_child_of_a_background_run_can_be_interrupted():
    "Also if the tests themselves were started in the background, where a shell lets processes ignore SIGINT."
    test = "tests/test_interruption.py::test_a_child_can_be_interrupted"
    words = f"trap '' INT; exec {sys.executable} -m pytest -q -p no:cacheprovider {test}"
    done = run("sh", "-c", words, root=ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_runner_killed(tmp_path, start_method):
    "The kernel and its workers, however they were started, end with the runner."
    root = small_repository(tmp_path, WORK.format(start=repr(start_method)), WRITE)
    process, below = start(root)
    assert len(below) >= 3
    process.kill(); process.wait()
    assert_all_end(below)
    assert not list((root / NOTEBOOKS).glob("*"))


def test_kernel_killed(working):
    "The runner does not wait for a kernel that is no more; it reports that once, and the workers end."
    process, below = start(working)
    psutil.Process(process.pid).children()[0].kill()
    out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    reason = "its kernel died (killed, or out of memory) (see results/failed/pack-rendered.ipynb)"
    assert err.split("error: ")[1] == f"pack-rendered: {reason}\n"
    assert err.count("error") == 1 and "Traceback" not in err
    assert_all_end(below)


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_runner_asked_to_end(working, number, status):
    process, below = start(working)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == status and "Traceback" not in err
    assert_all_end(below)


def test_no_second_run_beside_a_living_one(working):
    process, below = start(working)
    second = run(*RUN, root=working)
    complaint = "error: pack-rendered is running already; wait for it or end it first\n"
    assert (second.returncode, second.stderr) == (3, complaint)
    assert process.poll() is None and all(map(lives, below))
    process.kill(); process.wait()
    assert_all_end(below)
    (working / "finish").touch()
    assert run(*RUN, root=working).returncode == 0


def test_same_notebook_after_a_kill(working):
    "What a killed run leaves behind changes nothing in the next."
    process, below = start(working)
    process.kill(); process.wait()
    assert_all_end(below)
    (working / "finish").touch()
    results = []
    for _ in range(2):
        assert run(*RUN, root=working).returncode == 0
        results.append((working / NOTEBOOKS / "pack-rendered.ipynb").read_bytes())
        shutil.rmtree(working / "results/quick")
    assert results[0] == results[1]


@pytest.fixture
def versioned(working):
    "The same repository under git and DVC, with the command that the real pipeline has."
    command = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["pack"]["do"]["cmd"]
    stage = {"cmd": command.replace("${item}", "rendered"), "deps": ["nbs/stages", "results/prepared/pack.yaml"],
             "outs": ["data/packed/rendered", f"{NOTEBOOKS}/pack-rendered.ipynb"]}
    (working / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"pack": stage}}))
    quiet = (f"dvc config core.{key} false" for key in ("analytics", "check_update"))
    for words in ("git init -q", "dvc init -q", *quiet):
        assert run(*words.split(), root=working).returncode == 0
    return working


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_dvc_killed(versioned, shell, monkeypatch):
    "Whatever shell DVC puts between itself and the runner; and the next `dvc repro` is an ordinary one."
    if not shutil.which(shell): pytest.skip(f"no {shell} here")
    monkeypatch.setenv("SHELL", shell)
    process, below = start(versioned, ["dvc", "repro"])
    assert len(below) >= 4
    process.kill(); process.wait()
    assert_all_end(below)
    assert not list((versioned / NOTEBOOKS).glob("*")) and not (versioned / "dvc.lock").exists()
    (versioned / "finish").touch()
    done = run("dvc", "repro", root=versioned)
    assert done.returncode == 0, done.stderr
    assert "didn't change" in run("dvc", "repro", root=versioned).stdout


def test_runner_killed_under_dvc(versioned):
    "DVC reports the failure and keeps nothing of the run."
    process, below = start(versioned, ["dvc", "repro"])
    runner = next(p for p in below if "mmreid.pipeline" in p.cmdline())
    runner.kill()
    out, err = process.communicate(timeout=20)
    assert process.returncode != 0 and "failed to reproduce 'pack'" in err
    assert_all_end(below)
    assert not (versioned / "dvc.lock").exists()


def test_failing_cell(tmp_path):
    "One line with the reason and the place to look; no executed notebook that DVC could take for a result."
    failing = "from mmreid.core import InputError\nraise InputError('people.csv: row 3:\\nno such camera')"
    root = small_repository(tmp_path, "print('so far')", failing)
    done = run(*RUN, root=root)
    reason = "InputError: people.csv: row 3: no such camera (see results/failed/pack-rendered.ipynb)"
    assert (done.returncode, done.stderr) == (1, f"error: pack-rendered: {reason}\n")
    assert "so far" in (root / "results/failed/pack-rendered.ipynb").read_text()
    assert not (root / NOTEBOOKS).exists()


@pytest.mark.parametrize("change, complaint", [
    (lambda v: v["profiles"]["quick"]["pack"].update(heigth=96), "profiles.quick.pack.heigth: unknown key"),
    (lambda v: v["profiles"]["paper"]["train"].update(steps=0), "profiles.paper.train.steps"),
    (lambda v: v.update(profile="quik"), "'quik' is none of"),
])
def test_bad_parameters(tmp_path, change, complaint):
    "Refused by name, on one line, before anything is prepared; what was prepared before is kept."
    root = small_repository(tmp_path, WRITE)
    shutil.copy(ROOT / "params.yaml", root)
    change_parameters(root, change)
    before = prepared_path("pack", None, ".yaml", root).read_bytes()
    done = run(sys.executable, "-m", "mmreid.pipeline", "prepare", root=root)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: params.yaml: ") and complaint in done.stderr
    assert [p for p in (root / "results").rglob("*") if p.is_file()] == [prepared_path("pack", None, ".yaml", root)]
    assert prepared_path("pack", None, ".yaml", root).read_bytes() == before


def test_nothing_prepared(tmp_path):
    "A stage that is run before its settings were prepared stops, before any kernel starts, with the remedy."
    root = small_repository(tmp_path, WRITE)
    prepared_path("pack", None, ".yaml", root).unlink()
    done = run(*RUN, root=root)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "results/prepared/pack.yaml: no such file" in done.stderr and "dvc repro prepare" in done.stderr
    assert not (root / "results/failed").exists() and not (root / "data").exists()


def test_progress_is_seen_while_it_runs(working):
    "Bars and printed text reach the terminal before the stage ends, and leave no trace in the notebook."
    process, below = start(working)
    seen = process.stderr.read(200)
    assert "steps:" in seen
    process.kill(); process.wait()
    assert_all_end(below)
    notebook = nbformat.read(working / "results/failed/pack-rendered.ipynb", as_version=4)
    outputs = [out for cell in settle(notebook).cells for out in cell.get("outputs", [])]
    assert all(out.get("name") != "stderr" for out in outputs)


EARLY = """
import os, signal, sys
sys.argv = ["/somewhere/bin/mmreid", "--help"]
class Interrupt:
    def find_spec(self, name, *_):
        if name == "numpy": os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
signal.signal(signal.SIGINT, {handler})
from mmreid.app import main
sys.exit(main())
"""


@pytest.mark.parametrize("handler, status", [("signal.default_int_handler", 130), ("signal.SIG_IGN", 0)])
def test_a_command_ends_quietly_while_its_libraries_are_imported(handler, status):
    "Unless who started it wants it to go on, as a shell does for what runs in the background."
    done = run(sys.executable, "-c", EARLY.format(handler=handler), root=ROOT)
    assert done.returncode == status and done.stderr == ("error: interrupted\n" if status else "")
