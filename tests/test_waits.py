"A training step asks its device for no value: on a GPU it would wait for the answer."
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from mmreid.data.host import sent
from mmreid.methods.registry import for_variant, load_params
from mmreid.training.loop import Game, players

PARAMS = load_params(ROOT / "params.yaml")
META = SimpleNamespace(device=torch.device("meta"), autocast=nullcontext)      # it has shapes and no values


def game_and_batch(variant):
    "Both players on the device `meta`, and a batch of eight tuples, of which two have lost modalities."
    model, train = for_variant(PARAMS, variant)
    model = model.model_copy(update=dict(weights="none", backbone="resnet10"))
    with torch.device("meta"): both = players(("rgb", "ir", "depth"), model, PARAMS.variants[variant], train, 8)
    game = Game(*both, train, META)
    present = torch.ones(8, 3, dtype=bool)
    kept = present.clone()
    kept[1, 0], kept[2, 1:] = False, False
    known = [sent(tensor, "meta") for tensor in (present, kept, torch.arange(4).repeat_interleave(2))]
    return game, (torch.empty(8, 3, 3, 96, 48, device="meta"), *known)


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    "`meta` has none."
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


@pytest.mark.parametrize("variant", PARAMS.study.rows)
def test_a_step_never_waits(variant):
    game, batch = game_and_batch(variant)
    figures = game.play(0, batch)
    assert all(value.device.type == "meta" for value in figures.values())


def test_a_question_would_be_seen():
    game, (images, *known) = game_and_batch("baseline")
    unknown = [tensor.detach() for tensor in known]       # nobody remembers what they were
    with pytest.raises(NotImplementedError): game.play(0, (images, *unknown))
