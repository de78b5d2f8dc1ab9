"What `make` does before anything is installed."
import os
import shutil

import pytest
from conftest import ROOT, run


@pytest.fixture
def folder(tmp_path):
    "A folder with the files that `make setup` reads."
    for name in ("Makefile", "requirements.lock", "pyproject.toml"): shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def pretend(folder, version):
    "An interpreter that runs code as if it were another version, and notes any other call."
    python = folder / "python-of-the-user"
    code = f"import sys; sys.version_info = {version}; exec(sys.argv[1])"
    python.write_text(f"""#!/bin/sh
if [ "$1" = -c ]; then exec {shutil.which('python3')} -c "{code}" "$2"; fi
echo "$@" >> {folder}/called; exit 9
""")
    python.chmod(0o755)
    return python


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 10, 13), (3, 14, 0)])
def test_other_pythons_are_refused_by_name(folder, version):
    done = run("make", "repro", f"PYTHON={pretend(folder, version)}", root=folder)
    assert done.returncode != 0 and "mmreid needs Python 3.11, 3.12 or 3.13" in done.stderr
    assert ".".join(map(str, version)) in done.stderr
    assert not (folder / ".venv").exists() and not (folder / "called").exists()


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 1), (3, 13, 0)])
def test_supported_pythons_make_the_environment(folder, version):
    run("make", "setup", f"PYTHON={pretend(folder, version)}", root=folder)
    assert (folder / "called").read_text() == "-m venv .venv\n"


def test_nothing_is_installed_twice(folder):
    (folder / ".venv").mkdir()
    installed = [(folder / name).read_bytes() for name in ("requirements.lock", "pyproject.toml")]
    (folder / ".venv/installed").write_bytes(b"".join(installed))
    done = run("make", "setup", f"PYTHON={folder / 'none'}", root=folder)
    assert done.returncode == 0 and os.listdir(folder / ".venv") == ["installed"]
    (folder / "pyproject.toml").write_text("other")
    assert run("make", "setup", f"PYTHON={folder / 'none'}", root=folder).returncode != 0


def test_help_lists_the_commands(folder):
    listed = run("make", root=folder).stdout
    assert all(f"make {target} " in listed for target in ("repro", "study", "experiments", "test", "lab", "readme"))
