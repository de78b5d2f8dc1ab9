"The benchmarks run where nothing is installed but PyTorch, torchvision and NumPy."
import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from mmreid.benchmarks.portable import THERE, lay, needed

ONE_STEP = """
from mmreid.benchmarks.__main__ import _call, _params
from mmreid.data.packed import Packed
packed = Packed.open(_call("training", "toy_people")(_params().chosen.pack))
_call("training", "training")(packed, _params(), "full").advance()
print("one step")
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    "(the folder, a run of Python in it that finds nothing else but `THERE` and what these need)."
    folder, there = (tmp_path_factory.mktemp(name) for name in ("portable", "there"))
    lay(folder)
    for name in needed(THERE):
        own = distribution(name)
        for top in {file.parts[0] for file in own.files} - {"..", "__pycache__"}:
            if not (there / top).exists(): (there / top).symlink_to(own.locate_file(top))
    path = os.pathsep.join([str(folder / "packages"), str(there)])

    def run(*words):
        env = {**os.environ, "PYTHONPATH": path}
        return subprocess.run([sys.executable, "-S", *words], cwd=folder, env=env, capture_output=True, text=True)
    return folder, run


def test_nothing_else_is_found(elsewhere):
    "The test of the test."
    assert "No module named 'jupyterlab'" in elsewhere[1]("-c", "import jupyterlab").stderr


def test_a_benchmark_runs(elsewhere):
    done = elsewhere[1]("-m", "mmreid.benchmarks", "--only", "packing", "stages")
    assert done.returncode == 0, done.stderr
    assert "packing an image against decoding it: ratio" in done.stdout and "not measured" in done.stdout


def test_training_runs_without_rendered_people(elsewhere):
    done = elsewhere[1]("-c", ONE_STEP)
    assert done.stdout == "one step\n", done.stderr


def test_the_start_script_finds_its_folder(elsewhere, tmp_path):
    "From any folder; the rest of the path is that of the Python that it is given."
    folder = elsewhere[0]
    script = folder / "bench.sh"
    done = subprocess.run([script, "--help"], cwd=tmp_path, env={**os.environ, "PYTHON": sys.executable},
                          capture_output=True, text=True)
    assert done.returncode == 0 and "Measure what things cost" in done.stdout
    assert os.access(script, os.X_OK) and Path(folder, "params.yaml").is_file()
