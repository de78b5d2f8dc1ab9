"Training by several processes: N with a share of every batch each compute what one computes with all of it."
import json
import sys

import pytest
from conftest import ROOT, run
from safetensors.torch import load_file

SCRIPT = """
import json, os, socket, sys
from pathlib import Path
from safetensors.torch import save_file
from mmreid.data.packed import Packed
from mmreid.methods.registry import for_variant, load_params
from mmreid.training.loop import Training

def train(folder, params, name, variant, steps=4, **options):
    small = dict(batch_identities=4, batch_tuples=2, steps=50, warmup_steps=1, validate_every=50, checkpoint_every=2)
    small |= dict(optimiser="sgd", learning_rate=0.01, discriminator_learning_rate=0.01, modality_dropout=0.3)
    model, settings = for_variant(params, variant)
    settings, model = settings.model_copy(update=small), model.model_copy(update=dict(branch_dim=12))
    compute, rows = params.chosen.compute.model_copy(update=dict(threads=1, precision="fp32") | options), []
    packed = Packed.open(folder / "packed")
    training = Training(packed, model, params.variants[variant], settings, compute, seed=1,
                        state=folder / f"{name}.state", log=rows.append)
    if training.state.exists(): training.load()
    first = {}
    while training.step < steps:
        training.advance()
        if training.step == 1:
            first = {f"gradient.{n}": p.grad.clone() for n, p in training.game.module.named_parameters()
                     if p.grad is not None}
    process, processes = training.accelerator.process_index, training.accelerator.num_processes
    found = dict(processes=processes, share=len(training.data.batch(0, process, processes)[3]), logged=len(rows),
                 rows=training.history)
    groups = training.game.tensors()
    tensors = first | groups["module"] | {f"adversaries.{n}": t for n, t in groups.get("adversaries", {}).items()}
    (folder / f"{name}-{process}.json").write_text(json.dumps(found))
    plain = {n: t.detach().contiguous().clone() for n, t in tensors.items()}
    save_file(plain, folder / f"{name}-{process}.safetensors")

def as_torchrun(rank, processes, port):
    "The environment in which torchrun starts a process."
    names = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=processes, LOCAL_WORLD_SIZE=processes,
                 MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    os.environ.update({name: str(value) for name, value in names.items()})

def in_processes(processes, work):
    "Fork `processes` that do `work`: the libraries are imported once."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port, children = free.getsockname()[1], []
    for rank in range(processes):
        if child := os.fork(): children.append(child); continue
        if processes > 1: as_torchrun(rank, processes, port)
        status = 1
        try: work(); status = 0
        finally: sys.stdout.flush(), sys.stderr.flush(), os._exit(status)
    assert not any([os.waitpid(child, 0)[1] for child in children])

folder, params = Path(sys.argv[1]), load_params(sys.argv[2])
for processes, jobs in json.loads(sys.argv[3]):
    in_processes(processes, lambda: [train(folder, params, **job) for job in jobs])
"""
VARIANTS = ["full", "ddag", "best-gate", "unicat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from mmreid.data.packed import pack
    from mmreid.data.toy import toy_dataset
    folder = tmp_path_factory.mktemp("processes")
    toy_dataset(folder, people=16)
    pack(folder, folder / "packed", height=96, width=32)
    (folder / "script.py").write_text(SCRIPT)
    return folder


def trained(folder, *rounds):
    "Each round: (processes, jobs), jobs being the arguments of `train` in the script."
    words = [str(folder / "script.py"), str(folder), str(ROOT / "params.yaml"), json.dumps(rounds)]
    done = run(sys.executable, *words, root=ROOT)
    assert done.returncode == 0, done.stderr[-6000:]


def read(folder, name, process=0):
    "(figures, tensors) that a process wrote."
    path = folder / f"{name}-{process}"
    return json.loads(path.with_name(f"{path.name}.json").read_text()), load_file(f"{path}.safetensors")


@pytest.fixture(scope="module")
def both(folder):
    "The folder after all trainings: of every variant by one process and by two, and those that change in between."
    every = [(number, [{"name": f"{v}.{number}", "variant": v} for v in VARIANTS]) for number in (1, 2)]
    half = lambda name, steps: [{"name": name, "variant": "full", "steps": steps}]
    resumed = [(1, half("grown", 2)), (2, half("grown", 4)), (2, half("shrunk", 2)), (1, half("shrunk", 4))]
    trained(folder, *every, *resumed, (2, [{"name": "parts", "variant": "full", "steps": 1, "accumulate": 2}]))
    return folder


def differences(one, two):
    "{name: largest difference of a tensor, relative to its largest number}; what is nearly 0 counts as 0.01."
    assert one.keys() == two.keys()
    apart = lambda a, b: (a.double() - b.double()).abs().max() / (a.double().abs().max() + 0.01)
    return {name: apart(one[name], two[name]).item() for name in one}


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_compute_what_one_computes(both, variant):
    """Loss and gradients of the first step, then all figures, weights and running statistics after four.

    AdamW divides a gradient by its size: where it is nearly 0, rounding can turn a weight's step around."""
    (one, tensors), (two, others) = read(both, f"{variant}.1"), read(both, f"{variant}.2")
    assert [row.keys() for row in one["rows"]] == [row.keys() for row in two["rows"]] and len(one["rows"]) == 4
    for name, value in one["rows"][0].items(): assert two["rows"][0][name] == pytest.approx(value, rel=1e-4, abs=1e-5)
    found = differences(tensors, others)
    kinds = {kind: [v for n, v in found.items() if kind in n] for kind in ("gradient", "running_var", "batches")}
    assert all(kinds.values()) and max(kinds["batches"]) == 0
    assert max(kinds["gradient"]) < 2e-4, max(found, key=found.get)
    assert max(kinds["running_var"]) < 1e-3 and max(found.values()) < 1e-2, max(found, key=found.get)
    assert two["rows"][-1]["train/loss"] == pytest.approx(one["rows"][-1]["train/loss"], rel=1e-3)


def test_only_the_first_process_writes_and_all_end_equal(both):
    (first, tensors), (second, others) = read(both, "full.2", 0), read(both, "full.2", 1)
    assert first["processes"] == second["processes"] == 2 and first["share"] == second["share"] == 4
    assert (first["logged"], second["logged"]) == (4, 0) and (both / "full.2.state").exists()
    assert max(differences(tensors, others).values()) == 0


def test_another_number_of_processes_resumes(both):
    "Two steps of one process, then two of two processes; and the reverse."
    without = lambda tensors: {n: t for n, t in tensors.items() if "gradient" not in n}
    for name in ("grown", "shrunk"):
        one, found = read(both, "full.1"), read(both, name)
        assert max(differences(without(one[1]), without(found[1])).values()) < 1e-2
        assert [row["step"] for row in found[0]["rows"]] == [0, 1, 2, 3]


def test_processes_may_accumulate(both):
    "Parts within processes run; batch normalisation sees other rows, so the loss is near, not equal."
    one, parts = read(both, "full.1")[0]["rows"], read(both, "parts")[0]["rows"]
    assert parts[0]["train/loss"] == pytest.approx(one[0]["train/loss"], rel=0.3)
    assert parts[0]["train/loss"] != pytest.approx(one[0]["train/loss"], rel=1e-4)
