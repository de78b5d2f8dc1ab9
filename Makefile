PYTHON ?= python3
FLAGS ?=
JOBS ?= 2
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
.DEFAULT_GOAL := help
.PHONY: help setup repro study experiments compare plots course grade test lab browser trials ingredients agreement longer bench portable gpu-check readme notebooks site export lock lock-check clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

define CHECK_PYTHON
import sys
version = ".".join(str(part) for part in sys.version_info[:3])
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit("error: mmreid needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is Python " + version
             + "; choose another with PYTHON=/path/to/python")
endef
export CHECK_PYTHON

setup:  ## make .venv from requirements.lock, unless it is there and neither the lock nor pyproject.toml has changed
	@set -e; if ! cat requirements.lock pyproject.toml | cmp -s - .venv/installed; then \
	  $(PYTHON) -c "$$CHECK_PYTHON"; \
	  test -x $(BIN)/python || $(PYTHON) -m venv .venv; \
	  $(BIN)/python -m pip install -r requirements.lock; \
	  $(BIN)/python -m pip install --no-deps --no-build-isolation --editable .; \
	  cat requirements.lock pyproject.toml > .venv/installed; \
	fi
	@test ! -x $(BIN)/python -o ! -d .dvc -o -e .dvc/plots/offline.html || $(BIN)/python -m mmreid.compare.plots
	@sh -c "$$GIT_DRIVERS" 2>/dev/null || true

# How git merges and shows notebooks (.gitattributes), set in this clone only: nbdev merges cell by cell; nbdime shows
# differences where git starts a pager, and a pipe or a file gets git's own format. Without .venv both are plain text.
define MERGE_DRIVER
if test -x $(BIN)/nbdev_merge; then $(BIN)/nbdev_merge %O %A %B %P; else git merge-file %A %O %B; fi
endef
define DIFF_DRIVER
show() {
  test -n "$$2" || return 0
  if test -n "$$GIT_PAGER_IN_USE" && test -x $(BIN)/git-nbdiffdriver; then exec $(BIN)/git-nbdiffdriver diff "$$@"; fi
  old=a/$$1 new=b/$${8:-$$1}
  echo "diff --git $$old $$new"
  if test -n "$$9"; then printf %s "$$9"; fi
  if test "$$2" = /dev/null; then old=/dev/null; echo "new file mode $$7"; fi
  if test "$$5" = /dev/null; then new=/dev/null; echo "deleted file mode $$4"; fi
  diff -u --label "$$old" --label "$$new" "$$2" "$$5"; test $$? -ne 2
}; show
endef
define GIT_DRIVERS
test -e .git || exit 0
set_key() { test "$$(git config --local "$$1")" = "$$2" || git config --local "$$1" "$$2"; }
set_key merge.nbdev-merge.name "notebooks, cell by cell"
set_key merge.nbdev-merge.driver "$$MERGE_DRIVER"
set_key diff.jupyternotebook.command "$$DIFF_DRIVER"
endef
export MERGE_DRIVER DIFF_DRIVER GIT_DRIVERS

repro: setup  ## run the pipeline, two stages at a time or JOBS=N (what is up to date is not run again)
	python -m mmreid.pipeline repro --jobs $(JOBS)

study: setup  ## train and evaluate every row of every table, with several seeds (about three hours; resumes after an interruption)
	python -m mmreid.pipeline repro --study --jobs $(JOBS)

define SHOW_EXPERIMENTS
import sys, pandas as pd
table = pd.read_csv(sys.stdin, dtype=str).fillna("")
names = [given or commit for given, commit in zip(table.get("Experiment", table.rev), table.rev)]
shown = table.drop(columns=["Experiment", "rev", "typ", "Created", "parent"], errors="ignore").set_axis(names).T
shown.index = shown.index.str.replace("^results/(.*)[.]json:", r"\1: ", regex=True)
shown = shown.map(lambda value: value if len(value) <= 18 else value[:17] + "…")
print("nothing differs" if shown.empty else shown.to_string(line_width=120))
endef
export SHOW_EXPERIMENTS

experiments: setup  ## list what differs between experiments, a column for each; FLAGS="--all-commits": of all
	@dvc exp show $(FLAGS) --only-changed --drop 'nbs|mmreid|data/|params.yaml$$|results/[^:]*$$' --csv \
	  | python -c "$$SHOW_EXPERIMENTS"

A ?= HEAD
B ?= workspace
compare: setup  ## show what differs between A=HEAD and B=workspace: parameters, figures, verdicts, pictures
	@mmreid compare $(A) $(B)

plots: setup  ## draw the validation curves of all runs, as a page that opens without a network
	dvc plots show -o build/plots

course: setup  ## write the student edition of every lesson to _course/release
	mmreid course release

SUBMISSIONS ?= submissions
grade: setup  ## mark SUBMISSIONS=submissions, a folder of <student>/<lesson>.ipynb (this runs them)
	mmreid course grade "$(SUBMISSIONS)"

test: setup  ## run every test; FLAGS="slow cuda" adds the cells marked so
	pytest -n 2 --flags "$(FLAGS)"

lab: setup  ## open JupyterLab on a page that lists all notebooks
	jupyter lab nbs/start.ipynb

browser: setup  ## install Debian's Chromium, if none is there, for the tests that look at pages (needs root)
	@command -v chromium >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends chromium; }

trials: setup  ## try settings on validation identities, as study/trials.yaml lists them (resumes after an interruption)
	python -m mmreid.training.trials --jobs $(JOBS)

ingredients: setup  ## try what the methods are made of, each part with three seeds, on validation identities (an hour; resumes)
	python -m mmreid.training.trials --jobs $(JOBS) --list study/ingredients.yaml --results results/ingredients.csv

agreement: setup  ## compare the order of methods here with that of their publications (half an hour, after make study; resumes)
	python -m mmreid.report.agreement --jobs $(JOBS)

longer: setup  ## train rows for five times as many steps, on a GPU (FLAGS="--changes '{train.backbone_rate: 0.3}'"; resumes after an interruption)
	python -m mmreid.report.longer --jobs $(JOBS) $(FLAGS)

bench: setup  ## measure what things cost and how long the lessons run, on a machine that does nothing else
	python -m mmreid.benchmarks
	python -m mmreid.course.timing

portable: setup  ## lay the benchmarks into build/portable, for a machine that has PyTorch and can install nothing (FLAGS="--python 3.12")
	python -m mmreid.benchmarks.portable $(FLAGS)

gpu-check: setup  ## run all that needs a GPU, measure it, and write one report: results/gpu_check (an hour; FLAGS=--cpu: without a GPU)
	python -m mmreid.report.gpu_check $(FLAGS)

readme: setup  ## make README.md from nbs/index.ipynb and results/
	python -m mmreid.pipeline readme

notebooks: setup  ## run every module notebook again, in place
	python -m mmreid.pipeline refresh nbs/[0-9]*/*.ipynb
	nbdev_clean

site: setup  ## build the site for reading, in _site: notebooks, results, reference (a minute or two; needs no network)
	python docs/build.py

export: setup  ## write the library from the notebooks, and clean them
	@if grep -rnE --include='*.ipynb' '^ *"?`?(<{7}|>{7}) ' nbs; then echo "error: an unfinished merge (above); finish it" >&2; exit 2; fi
	nbdev_export
	nbdev_clean

lock:  ## write requirements.lock from what is installed in .venv
	{ echo "# The exact environment, Linux x86-64, Python 3.11 to 3.13. Made by 'make lock', used by 'make setup'."; \
	  $(BIN)/python -m pip freeze --all --exclude pip --exclude wheel --exclude mmreid; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

# antlr4-python3-runtime 4.9.3, which DVC needs through hydra-core, was never published as a wheel; it is pure Python.
lock-check: setup  ## ask the package index whether every pin has a wheel for each supported Python
	@for version in 3.11 3.12 3.13; do \
	  python -m pip install --dry-run --quiet --ignore-installed --no-deps --only-binary=:all: --no-binary=antlr4-python3-runtime \
	    --python-version $$version --target .venv/none -r requirements.lock || exit 1; \
	  echo "Python $$version: a wheel for every pin but antlr4-python3-runtime"; \
	done

clean:  ## remove what tests and failed runs left behind (not results, not the environment)
	rm -rf .pytest_cache .hypothesis results/failed build *.egg-info
	find nbs mmreid tests -name __pycache__ -prune -exec rm -rf {} +
