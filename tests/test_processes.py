"Training by several processes: each has its share of every batch, all end with equal weights, only the first writes."
import json
import sys

import pytest
from conftest import ROOT, run

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from mmreid.data.packed import Packed
from mmreid.methods.registry import load_params
from mmreid.training.loop import Training

folder = Path(sys.argv[1])
params = load_params(sys.argv[2])
quick = params.chosen
small = dict(batch_identities=4, batch_tuples=2, steps=4, warmup_steps=1, validate_every=2, checkpoint_every=2)
train, model = quick.train.model_copy(update=small), quick.model.model_copy(update=dict(branch_dim=8))
compute = quick.compute.model_copy(update=dict(threads=1, precision="fp32"))
rows = []
training = Training(Packed.open(folder / "packed"), model, params.variants["full"], train, compute, seed=1,
                    state=folder / "state.safetensors", log=rows.append)
network = training.run()
process, processes = training.accelerator.process_index, training.accelerator.num_processes
found = dict(processes=processes, share=len(training.data.batch(0, process, processes)[3]), logged=len(rows),
             weights=sum(p.double().sum().item() for p in network.parameters()))
(folder / f"{process}.json").write_text(json.dumps(found))
"""


def test_two_processes(tmp_path):
    from mmreid.data.packed import pack
    from mmreid.data.toy import toy_dataset
    toy_dataset(tmp_path, people=16)
    pack(tmp_path, tmp_path / "packed", height=96, width=32)
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone",
               str(tmp_path / "script.py"), str(tmp_path), str(ROOT / "params.yaml"), root=ROOT)
    assert done.returncode == 0, done.stderr[-6000:]
    first, second = (json.loads((tmp_path / f"{i}.json").read_text()) for i in (0, 1))
    assert first["processes"] == second["processes"] == 2 and first["share"] == second["share"] == 4
    assert first["weights"] == pytest.approx(second["weights"], abs=1e-6)
    assert (first["logged"], second["logged"]) == (4, 0) and (tmp_path / "state.safetensors").exists()
