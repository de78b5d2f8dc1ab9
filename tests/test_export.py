"A network that was exported is the same network, or there is no file."
import json
import sys

import numpy as np
import pytest
import torch

from mmreid.app import main
from mmreid.core import InputError, file_hash, subset_name, subsets
from mmreid.data.augment import ImageTransform
from mmreid.gallery.export import check_export, export_latency, opened
from mmreid.methods.checkpoints import save_network
from mmreid.report.benchmarks import COLUMNS
from mmreid.training.shipped import SHIPPED, shipped_network

SIZE = (96, 48)
FILES = ["best-shared.onnx", "best-shared.pt2"]
SUBSETS = subsets(("rgb", "ir", "depth"))


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    "The folder into which the command line has exported the network that ships."
    folder = tmp_path_factory.mktemp("exported")
    assert main(["export", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def runs(exported):
    "(PyTorch, [the exported files]): functions from images and `present` to embeddings."
    network, statistics = shipped_network()
    transform = ImageTransform(network.modalities, statistics, network.model.normalisation)
    @torch.inference_mode()
    def embed(images, present):
        images = torch.from_numpy(images).permute(0, 1, 4, 2, 3)
        return network(transform(images), torch.from_numpy(present)).e.numpy()
    return embed, [opened(exported / name) for name in FILES]


@pytest.mark.parametrize("subset", SUBSETS, ids=subset_name)
@pytest.mark.parametrize("batch", [1, 5])
def test_embeddings_are_those_of_pytorch(runs, subset, batch):
    embed, others = runs
    images = np.random.default_rng(batch).integers(0, 256, (batch, 3, *SIZE, 3), dtype=np.uint8)
    present = np.array([[m in subset for m in ("rgb", "ir", "depth")]] * batch)
    e = embed(images, present)
    for run in others: assert np.abs(run(images, present) - e).max() < 1e-4


def test_the_files_describe_themselves(exported):
    import onnxruntime
    about = onnxruntime.InferenceSession(exported / FILES[0]).get_modelmeta().custom_metadata_map
    package = {"metadata.json": ""}
    torch.export.load(exported / FILES[1], extra_files=package)
    assert json.loads(package["metadata.json"]) == about
    assert about["checkpoint_sha256"] == file_hash(SHIPPED) and about["modalities"] == "rgb,ir,depth"
    assert (about["height"], about["width"], about["embedding_size"]) == ("96", "48", "1536")


@pytest.mark.parametrize("name", FILES)
def test_the_files_name_no_path_of_this_machine(exported, name):
    content = (exported / name).read_bytes()
    assert b"site-packages" not in content and str(SHIPPED.parents[2]).encode() not in content


def altered(path, out):
    "A copy of an ONNX file in which the largest of all weights is larger still."
    import onnx
    model = onnx.load(path)
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = onnx.numpy_helper.to_array(weights).copy()
    values[np.unravel_index(np.abs(values).argmax(), values.shape)] *= 2
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    onnx.save(model, out)
    return out


def test_an_altered_graph_is_noticed(exported, tmp_path):
    with pytest.raises(InputError, match="altered.onnx: differs from PyTorch"):
        check_export(altered(exported / FILES[0], tmp_path / "altered.onnx"), *shipped_network(), SIZE)


def test_a_file_that_differs_is_not_left_behind(tmp_path, monkeypatch):
    def refuse(path, *args): raise InputError(f"{path.name}: differs")
    monkeypatch.setattr("mmreid.gallery.export.check_export", refuse)
    monkeypatch.setattr("mmreid.gallery.export.traced", lambda *args: None)
    monkeypatch.setattr("mmreid.gallery.export.output_width", lambda program: 1536)
    monkeypatch.setitem(sys.modules["mmreid.gallery.export"].WRITERS, "pt2", lambda _, path, texts: path.touch())
    assert main(["export", "--out", str(tmp_path), "--format", "pt2"]) == 2
    assert list(tmp_path.iterdir()) == []


def refused(capsys, folder, *words):
    "The error of `mmreid export` with these words; nothing is written."
    assert main(["export", "--out", str(folder / "out"), *words]) == 2
    assert not (folder / "out").exists()
    return capsys.readouterr().err


def test_a_checkpoint_that_is_not_there(capsys, tmp_path):
    path = tmp_path / "none.safetensors"
    assert f"{path}: no such file" in refused(capsys, tmp_path, "--checkpoint", str(path))


def test_a_file_that_is_no_checkpoint(capsys, tmp_path):
    path = tmp_path / "some.safetensors"
    path.write_text("some text")
    assert f"{path}: damaged, or no checkpoint of this library" in refused(capsys, tmp_path, "--checkpoint", str(path))


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_a_package_that_is_missing(capsys, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    assert f"the format onnx needs {name}: pip install -e '.[export]'" in refused(capsys, tmp_path)


def test_a_size_that_the_network_cannot_have(capsys, tmp_path):
    assert "the height must be a multiple of 96" in refused(capsys, tmp_path, "--size", "100x48")


def test_the_size_is_that_of_the_training(tmp_path, monkeypatch):
    "The checkpoint states it; nobody has to know it."
    checkpoint, seen = tmp_path / "wide.safetensors", []
    save_network(checkpoint, *shipped_network(), size=(192, 64))
    monkeypatch.setattr("mmreid.gallery.export.traced", lambda network, statistics, size: seen.append(size))
    monkeypatch.setattr("mmreid.gallery.export.output_width", lambda program: 1536)
    monkeypatch.setattr("mmreid.gallery.export.check_export", lambda *args: seen.append(args[-1]) or 0.0)
    monkeypatch.setitem(sys.modules["mmreid.gallery.export"].WRITERS, "pt2", lambda _, path, texts: path.write_text(
        texts["height"]))
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out"), "--format", "pt2"]) == 0
    assert seen == [(192, 64)] * 2 and (tmp_path / "out/wide.pt2").read_text() == "192"


def test_latency_is_a_row_of_the_benchmarks(exported):
    row, = export_latency(exported / FILES[0], batches=[2], subset=("rgb", "ir"), rounds=1)
    assert list(row) == COLUMNS and row["what"] == "embedding, batch of 2, rgb+ir, onnx" and row["seconds"] > 0
