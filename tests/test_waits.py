"A training step reads no number from the device: counted on a CPU, as operations for which a program would wait."
from collections import Counter
from unittest import mock

import pytest
import torch
from conftest import ROOT
from torch.utils._python_dispatch import TorchDispatchMode

from mmreid.data.packed import pack
from mmreid.data.toy import toy_dataset
from mmreid.methods.registry import load_params
from mmreid.training.loop import Training

SHAPES = {"nonzero", "unique_dim", "_unique2", "bincount", "masked_select"}     # results whose shape depends on values


class Waits(TorchDispatchMode):
    "Counts numbers that are read, and shapes that depend on values."
    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.split("::")[1]
        indices = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
        masks = "index" in name and any(torch.is_tensor(i) and i.dtype == torch.bool for i in indices)
        if name in ("_local_scalar_dense", "is_nonzero", "equal"): self.found["numbers"] += 1
        if name in SHAPES or masks: self.found["shapes"] += 1
        return function(*args, **(kwargs or {}))


def one_hot(values, classes):
    "As PyTorch's, without the checks that it makes on a CPU only."
    return (values[..., None] == torch.arange(classes, device=values.device)).long()


@pytest.fixture
def training(tmp_path):
    toy_dataset(tmp_path, people=16)
    packed, params = pack(tmp_path, tmp_path / "packed", height=96, width=32), load_params(ROOT / "params.yaml")
    small = dict(batch_identities=4, batch_tuples=2, steps=50, warmup_steps=2)
    train = params.chosen.train.model_copy(update=small)
    model = params.chosen.model.model_copy(update=dict(branch_dim=12))
    return Training(packed, model, params.variants["full"], train, params.chosen.compute, seed=1)


def test_a_step_reads_no_number(training):
    "The optimiser is left out: on a CPU it counts its steps on the CPU, on a GPU it is fused."
    batch = training.data.batch(0)
    still = [mock.patch.object(optimiser, "step") for optimiser in (training.game.optimiser, training.game.opposing)]
    with still[0], still[1], mock.patch("torch.nn.functional.one_hot", one_hot), Waits() as waits:
        training.game.play(0, batch)
    assert waits.found["numbers"] == 0 and 0 < waits.found["shapes"] <= 25


def test_a_number_that_is_read_is_noticed():
    with Waits() as waits: torch.ones(3)[torch.tensor([True, False, True])].sum().item()
    assert waits.found == {"numbers": 1, "shapes": 1}
