"Processes are killed one by one: nothing goes on in secret, nothing starts twice, nothing half-done counts as whole."
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
import yaml
from conftest import ROOT, environment, run

from mmreid.pipeline.stages import settle

RUN = [sys.executable, "-m", "mmreid.pipeline.stages", "run", "pack", "dataset=rendered"]
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
WRITE = "from pathlib import Path\nPath('data/packed').mkdir(parents=True, exist_ok=True)\nPath('data/packed/rendered').write_text('whole')\nprint('done')"


def small_repository(root, *cells):
    "A folder with the repository's parameters and a stage `pack` of these code cells."
    (root / "nbs/stages").mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", root)
    first = nbformat.v4.new_code_cell(PARAMETERS, id="first", metadata={"tags": ["parameters"]})
    cells = [first, *(nbformat.v4.new_code_cell(source, id=f"cell{i}") for i, source in enumerate(cells))]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "nbs/stages/pack.ipynb")
    return root


@pytest.fixture
def working(tmp_path):
    "A repository whose stage works, with two worker processes, until it is killed; or ends at once if the file `finish` is there."
    return small_repository(tmp_path, WORK.format(start="'fork'"), WRITE)


def start(root, words=RUN):
    "Start a command and wait until the stage is at work; returns the process and all its descendants."
    process = subprocess.Popen(words, cwd=root, env=environment(ROOT), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
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




@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_runner_killed(tmp_path, start_method):
    "The kernel and its workers, however they were started, end with the runner."
    root = small_repository(tmp_path, WORK.format(start=repr(start_method)), WRITE)
    process, below = start(root)
    assert len(below) >= 3
    process.kill(); process.wait()
    assert_all_end(below)
    assert not list((root / "results/notebooks").glob("*"))


def test_kernel_killed(working):
    "The runner does not wait for a kernel that is no more; it says so once, and the workers end."
    process, below = start(working)
    psutil.Process(process.pid).children()[0].kill()
    out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert err.split("error: ")[1] == "pack-rendered: its kernel died (killed, or out of memory) (see results/failed/pack-rendered.ipynb)\n"
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
    assert (second.returncode, second.stderr) == (3, "error: pack-rendered is running already; wait for it or end it first\n")
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
        results.append((working / "results/notebooks/pack-rendered.ipynb").read_bytes())
        shutil.rmtree(working / "results")
    assert results[0] == results[1]


@pytest.fixture
def versioned(working):
    "The same repository under git and DVC, with the command that the real pipeline has."
    command = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["pack"]["do"]["cmd"].replace("${item}", "rendered")
    outs = ["data/packed/rendered", "results/notebooks/pack-rendered.ipynb"]
    (working / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"pack": {"cmd": command, "deps": ["nbs/stages"], "outs": outs}}}))
    for words in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "config", "core.analytics", "false"]): assert run(*words, root=working).returncode == 0
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
    assert not (versioned / "results/notebooks").exists() and not (versioned / "dvc.lock").exists()
    (versioned / "finish").touch()
    done = run("dvc", "repro", root=versioned)
    assert done.returncode == 0, done.stderr
    assert "didn't change" in run("dvc", "repro", root=versioned).stdout


def test_runner_killed_under_dvc(versioned):
    "DVC reports the failure and keeps nothing of the run."
    process, below = start(versioned, ["dvc", "repro"])
    runner = next(p for p in below if "mmreid.pipeline.stages" in p.cmdline())
    runner.kill()
    out, err = process.communicate(timeout=20)
    assert process.returncode != 0 and "failed to reproduce 'pack'" in err
    assert_all_end(below)
    assert not (versioned / "dvc.lock").exists()


def test_failing_cell(tmp_path):
    "One line that says what happened and where to look; no executed notebook that DVC could take for a result."
    root = small_repository(tmp_path, "print('so far')", "from mmreid.core import InputError\nraise InputError('people.csv: row 3:\\nno such camera')")
    done = run(*RUN, root=root)
    assert (done.returncode, done.stderr) == (1, "error: pack-rendered: InputError: people.csv: row 3: no such camera (see results/failed/pack-rendered.ipynb)\n")
    assert "so far" in (root / "results/failed/pack-rendered.ipynb").read_text() and not (root / "results/notebooks").exists()


@pytest.mark.parametrize("change, complaint", [
    (lambda v: v["profiles"]["quick"]["pack"].update(heigth=96), "params.yaml: profiles.quick.pack.heigth: unknown key"),
    (lambda v: v["profiles"]["paper"]["train"].update(steps=0), "profiles.paper.train.steps"),
    (lambda v: v.update(profile="quik"), "'quik' is none of"),
])
def test_bad_parameters(tmp_path, change, complaint):
    "Refused by name, on one line, before any kernel starts."
    root = small_repository(tmp_path, WRITE)
    value = yaml.safe_load((root / "params.yaml").read_text())
    change(value)
    (root / "params.yaml").write_text(yaml.safe_dump(value))
    done = run(*RUN, root=root)
    assert done.returncode == 2 and complaint in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (root / "results").exists() and not (root / "data").exists()


def test_progress_is_seen_while_it_runs(working):
    "Bars and printed text reach the terminal before the stage ends, and leave no trace in the notebook."
    process, below = start(working)
    seen = process.stderr.read(200)
    assert "steps:" in seen
    process.kill(); process.wait()
    assert_all_end(below)
    notebook = nbformat.read(working / "results/failed/pack-rendered.ipynb", as_version=4)
    assert all(out.get("name") != "stderr" for cell in settle(notebook).cells for out in cell.get("outputs", []))
