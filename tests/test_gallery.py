"Embedding and searching from the command line, on toy people."
import re
import shutil

import numpy as np
import pytest

pytest.importorskip("faiss", reason="the extra `search` is not installed")

from mmreid.app import main     # noqa: E402 (needs faiss)
from mmreid.data.samples import read_dataset, write_dataset     # noqa: E402
from mmreid.data.toy import toy_dataset     # noqa: E402
from mmreid.gallery.embed import embed_images     # noqa: E402
from mmreid.gallery.gallery import open_gallery     # noqa: E402
from mmreid.gallery.search import search     # noqa: E402
from mmreid.methods.checkpoints import save_network     # noqa: E402
from mmreid.methods.registry import load_params, build_network, for_variant     # noqa: E402
from conftest import ROOT     # noqa: E402

GALLERY = "build/embeddings/mine-test"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A folder with the dataset `mine`, one of whose test items has no infrared image, and its embeddings."
    root = tmp_path_factory.mktemp("gallery")
    shutil.copy(ROOT / "params.yaml", root)
    toy_dataset(root / "data/mine", size=(96, 48))
    dataset = read_dataset(root / "data/mine")
    kept = dataset.table.ir.where(dataset.table.ir != "ir/09-2.png", "")
    write_dataset(root / "data/mine", dataset.info, dataset.table.assign(ir=kept))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["embed", "mine", "--split", "test"]) == 0
    return root


@pytest.fixture(autouse=True)
def here(folder, monkeypatch): monkeypatch.chdir(folder)


def shown(capsys, *words, status=0):
    "What a command prints; on standard error if it fails with `status`."
    capsys.readouterr()
    found = main(list(words))
    printed = capsys.readouterr()
    assert found == status, printed.err
    return printed.err if status else printed.out


def ranked(text):
    "The rows of the gallery in the table of one query."
    return [int(row) for row in re.findall(r"^ *\d+ [✓✗ ] *(\d+) ", text, re.MULTILINE)]


def test_the_same_call_embeds_nothing(folder, capsys):
    "For other images it embeds again."
    file = folder / GALLERY / "embeddings.safetensors"
    before = file.stat().st_mtime_ns
    text = shown(capsys, "embed", "mine", "--split", "test")
    assert "12 items, 1536 numbers for each of rgb, ir, rgb+ir" in text and file.stat().st_mtime_ns == before
    shutil.copytree("data/mine", "data/copy")
    shutil.copy("data/copy/ir/09-0.png", "data/copy/ir/09-1.png")
    shutil.copytree(GALLERY, "other")
    shown(capsys, "embed", "data/copy", "--split", "test", "--out", "other")
    differ = {m: abs(open_gallery("other").matrix((m,))[1] - open_gallery(GALLERY).matrix((m,))[1]).max(1) > 1e-4
              for m in ("rgb", "ir")}
    assert not differ["rgb"].any() and differ["ir"].tolist() == [False, True, *[False] * 9]


def test_a_row_is_searched_as_by_definition(folder, capsys):
    gallery = open_gallery(GALLERY)
    text = shown(capsys, "search", GALLERY, "--row", "5", "--of", "ir", "--by", "rgb", "-k", "4")
    rows, e = gallery.matrix(("rgb",))
    query = gallery.queries([5], ("ir",)).embeddings[0].astype(float)
    s = (e.astype(float) * query).sum(1)
    key = (gallery.table.identity + gallery.table.camera)[rows].to_numpy()
    order = np.lexsort((rows, -s))
    assert ranked(text) == [rows[i] for i in order if key[i] != key[5]][:4]
    assert "12 items of toy (rendered images, test) by rgb, exact" in text
    assert max(map(len, text.splitlines())) <= 100


def test_modalities_are_named_in_any_order(capsys):
    words = "search", GALLERY, "--row", "5", "-k", "4"
    named = [ranked(shown(capsys, *words, "--of", own, "--by", own)) for own in ("ir+rgb", "rgb+ir")]
    assert named[0] == named[1] != []


def test_images_are_searched_and_shown_on_a_page(folder, capsys):
    "By default with all of the gallery's modalities; the item itself is first. The page needs nothing else."
    words = "--image", "rgb=data/mine/rgb/10-1.png", "--image", "ir=data/mine/ir/10-1.png"
    text = shown(capsys, "search", GALLERY, *words, "-k", "3", "--page", "build/search.html")
    assert ranked(text)[0] == 5 and len(ranked(text)) == 3 and "✓" not in text
    assert max(map(len, text.splitlines())) <= 100 and "images: build/search.html" in text
    page = (folder / "build/search.html").read_text()
    assert page.count("data:image/png;base64,") == 4 and not re.search(r'(src|href)="(?!data:)', page)


def test_cameras_are_left_out(capsys):
    cameras = open_gallery(GALLERY).table.camera
    words = "search", GALLERY, "--row", "5", "-k", "20"
    for options, camera in ((("--leave-out", "camera"), cameras[5]), (("--without", "c0"), "c0")):
        rows = ranked(shown(capsys, *words, *options))
        assert rows and camera not in set(cameras[rows])
    rows = ranked(shown(capsys, *words, "--leave-out", "nothing"))
    assert rows[0] == 5 and len(rows) == 11                     # but for the item without infrared


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_an_index_is_built_once(folder, capsys, kind):
    words = "search", GALLERY, "--row", "3", "--of", "rgb", "--by", "rgb", "-k", "5"
    exact = ranked(shown(capsys, *words))
    text = shown(capsys, *words, "--index", kind)
    assert ranked(text) == exact and f"by {kind.upper()}, which may miss items" in text
    file = folder / GALLERY / f"rgb.{kind}/index.faiss"
    before = file.stat().st_mtime_ns
    shown(capsys, *words, "--index", kind)
    assert file.stat().st_mtime_ns == before


def test_another_checkpoint_is_refused(folder, capsys):
    params = load_params(ROOT / "params.yaml")
    model, _ = for_variant(params, "baseline")
    network = build_network(("rgb", "ir"), model.model_copy(update={"branch_dim": 8}), params.variants["baseline"])
    statistics = {m: {"mean": [.5] * n, "std": [.2] * n} for m, n in (("rgb", 3), ("ir", 1))}
    save_network("own.safetensors", network, statistics)
    words = "--image", "rgb=data/mine/rgb/10-1.png", "--checkpoint", "own.safetensors"
    assert "embed both with the same: give --checkpoint" in shown(capsys, "search", GALLERY, *words, status=2)
    shown(capsys, "embed", "mine", "--checkpoint", "own.safetensors", "--out", "build/own", "--size", "96x32")
    gallery = open_gallery("build/own")
    assert "give --checkpoint" in shown(capsys, "search", "build/own", *words[:2], status=2)
    assert gallery.made["dimension"] == 24 and gallery.made["size"] == [96, 32] and len(gallery.table) == 48
    assert ranked(shown(capsys, "search", "build/own", *words, "--by", "rgb"))[0] == 41
    with pytest.raises(ValueError, match="embed both"): search(gallery, embed_images({"rgb": "data/mine/rgb/10-1.png"}))


ERRORS = {
    ("embed", "nobody"): "nobody: neither a folder nor the name of a dataset in data; `mmreid import nobody SOURCE`",
    ("embed", "data/mine/rgb"): "rgb: no dataset in this folder; `mmreid import NAME data/mine/rgb` makes one",
    ("check", "data/mine/rgb"): "rgb: no dataset in this folder; `mmreid import NAME data/mine/rgb` makes one",
    ("import", "new", "data/mine", "--range", "depth"): "'--range': depth: write it as in depth=600,4500",
    ("export", "--out", "data/mine"): "data/mine: there is something else already",
    ("export", "--out", "params.yaml"): "params.yaml: there is something else already",
    ("embed", "mine", "--out", "data"): "data: there is something else already",
    ("embed", "mine", "--checkpoint", "data/mine/samples.csv"): "samples.csv: damaged, or no checkpoint",
    ("embed", "mine", "--checkpoint", "data/mine"): "data/mine/model.safetensors: no such file",
    ("search", GALLERY, "--row", "0", "--page", "data/mine/dataset.json"): "dataset.json: a page's name ends in .html",
    ("embed", "mine", "--size", "100x48"): "the height must be a multiple of 96",
    ("embed", "mine", "--size", "large"): "write HEIGHTxWIDTH",
    ("search", "data", "--row", "0"): "data: no embeddings here",
    ("search", GALLERY): "name the query: --image, or --row",
    ("search", GALLERY, "--row", "12"): "row 12 is none of 0 to 11",
    ("search", GALLERY, "--row", "2", "--of", "ir"): "row 2 has only rgb",
    ("search", GALLERY, "--row", "0", "--by", "depth"): "no item has depth; there are rgb, ir, rgb+ir",
    ("search", GALLERY, "--row", "0", "--by", "ir+rgb+ir"): "ir+rgb+ir: a modality is named twice",
    ("search", GALLERY, "--row", "0", "--page", "data/mine"): "is a directory",
    ("search", GALLERY, "--row", "0", "--page", "."): "is a directory",
    ("search", GALLERY, "--row", "0", "--without", "c7"): "no item is from the camera 'c7'",
    ("search", GALLERY, "--image", "rgb"): "write MODALITY=FILE",
    ("search", GALLERY, "--image", "rgb=a.png", "--image", "rgb=b.png"): "one image of a modality, not two",
    ("search", GALLERY, "--image", "rgb=a.png", "--of", "rgb"): "--of is for --row",
    ("search", GALLERY, "--image", "rgb=none.png"): "none.png: no such image",
    ("search", GALLERY, "--image", "radar=none.png"): "'radar' is none of rgb, ir, depth",
    ("search", GALLERY, "--image", "rgb=data/mine/rgb/10-1.png", "--leave-out", "same"): "are not known",
}


@pytest.mark.parametrize("words", ERRORS, ids=lambda words: " ".join(words).replace(GALLERY, "gallery"))
def test_what_cannot_be_done_is_one_line(capsys, words):
    text = shown(capsys, *words, status=2)
    assert ERRORS[words] in text and len(text.strip().splitlines()) <= 4 and "Traceback" not in text


def test_a_modality_that_the_network_does_not_know(capsys):
    dataset = read_dataset("data/mine")
    shutil.copytree("data/mine", "data/radar")
    modalities = {{"ir": "radar"}.get(m, m): info for m, info in dataset.info.modalities.items()}
    write_dataset("data/radar", dataset.info.model_copy(update={"modalities": modalities}),
                  dataset.table.rename(columns={"ir": "radar"}))
    assert "the network knows rgb, ir, depth, but not 'radar'" in shown(capsys, "embed", "radar", status=2)


def test_a_broken_image_is_named(folder, capsys):
    "And nothing is written."
    shutil.copytree("data/mine", "data/broken")
    (folder / "data/broken/rgb/03-1.png").write_bytes(b"no image")
    assert "samples.csv line 15, rgb: " in shown(capsys, "embed", "broken", status=2)
    assert not list((folder / "build/embeddings").glob("*broken*"))


@pytest.mark.parametrize("named", ["mine", "mine/", "data/mine", "./data/mine/"])
def test_a_dataset_has_one_name_for_all_commands(capsys, named):
    text = shown(capsys, "embed", named, "--split", "test")
    assert text.startswith(f"{GALLERY}: 12 items")
    assert "dataset.json: name: toy, but the folder is mine" in shown(capsys, "check", named, status=1)


def test_commands_work_in_any_folder_of_the_repository(folder, capsys, monkeypatch):
    "Datasets and what is made of them are at its root; folders, images and pages are where the user is."
    monkeypatch.chdir("data")
    assert "../build/embeddings/mine-test: 12 items" in shown(capsys, "embed", "mine", "--split", "test")
    monkeypatch.chdir(folder / "data/mine")
    assert "../../build/embeddings/mine-test: 12 items" in shown(capsys, "embed", ".", "--split", "test")
    monkeypatch.chdir(folder / "data/mine")
    words = "search", f"../../{GALLERY}", "--image", "rgb=rgb/10-1.png", "-k", "2", "--page", "found.html"
    assert ranked(shown(capsys, *words))[0] == 5 and (folder / "data/mine/found.html").is_file()
    (folder / "data/mine/found.html").unlink()
    monkeypatch.chdir(folder / "data/mine")
    table = folder / "data/mine/own.csv"
    table.write_text("identity,camera,split,rgb\na,c,train,rgb/10-0.png\nb,c,test,rgb/10-1.png\n")
    assert "not enough to train and test: modalities: only rgb" in shown(capsys, "import", "own", "own.csv")
    table.unlink()
    assert (folder / "data/own/dataset.json").is_file() and not (folder / "data/mine/data").exists()
    monkeypatch.chdir(folder.parent)
    search = "search", f"{folder}/{GALLERY}", "--row", "0"
    for words in (("embed", "mine"), ("import", "mine", "."), ("check", "mine"), search):
        assert "call mmreid inside the repository" in shown(capsys, *words, status=2)
