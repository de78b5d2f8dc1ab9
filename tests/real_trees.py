"""Trees of tiny images under the official names of RegDB, SYSU-MM01 and further datasets.

The first two follow the official lists where those are at hand, else look-alikes."""
import os
import shutil

import numpy as np
from conftest import ROOT
from PIL import Image

from mmreid.data.llcm import write_llcm
from mmreid.data.regdb import FOLDERS, SPLITS, list_path, write_lists
from mmreid.data.rgbd import write_rgbd
from mmreid.data.spectra import msvr310_paths, rgbnt201_paths
from mmreid.data.sysu import CAMERAS, PARTS, read_permutations, write_permutations

OFFICIAL = ROOT.parent / "shared/official-protocols"
ABSENT = "the official lists are not at hand (shared/official-protocols beside the repository)"


def pictures(folder, suffix, count=16, size=(32, 96)):
    "A few different images, each encoded once, to be linked to under thousands of names."
    folder.mkdir(parents=True, exist_ok=True)
    random, found = np.random.default_rng(0), []
    for n in range(count):
        bands = random.integers(0, 255, (3, 1, 3)).repeat(size[1] // 3, 0).repeat(size[0], 1)
        pixels = bands * 0.8 + random.integers(0, 50, (size[1], size[0], 3))
        found.append(folder / f"{n}{suffix}")
        Image.fromarray(pixels.astype(np.uint8)).save(found[-1])
    return found


def place(root, path, picture):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    os.link(picture, root / path)


def regdb_images(people, each, official=True):
    "{identity: {modality: paths}}, from the official lists or under names like theirs."
    if not official:
        named = lambda i, m: [f"{FOLDERS[m]}/{i}/male_front_{m[0]}_{n:05d}_{i}.bmp" for n in range(each)]
        return {str(i): {m: named(i, m) for m in FOLDERS} for i in range(1, people + 1)}
    images = {}
    for part in ("train", "test"):
        for m in FOLDERS:
            for line in (OFFICIAL / "regdb" / list_path(part, m, 1)).read_text().split("\n"):
                if line.strip(): images.setdefault(line.split("/")[1], {}).setdefault(m, []).append(line.split()[0])
    return images


def regdb_tree(root, people=412, each=10, official=False, newline="\r\n"):
    """A RegDB of `people` with `each` images of each kind.

    Its lists are the official ones of splits 1 and 2, and look-alikes for the others, or look-alikes only."""
    images, random = regdb_images(people, each, official), np.random.default_rng(0)
    half = lambda: sorted(random.permutation(list(images))[:len(images) // 2].tolist(), key=int)
    write_lists(root, images, {k: half() for k in SPLITS}, newline)
    if official:
        for file in (OFFICIAL / "regdb/idx").iterdir(): shutil.copyfile(file, root / "idx" / file.name)
    encoded = pictures(root.parent / f"{root.name}-encoded", ".bmp")
    for n, own in enumerate(images.values()):
        for m in FOLDERS:
            for path in own[m]: place(root, path, encoded[n % len(encoded)])
    return root


def sysu_lists(root, people):
    "Lists and permutations of `people` {part: identities}, seen by all cameras; those of val by cameras 3, 4 and 5."
    sees = lambda camera, part: part != "val" or camera in ("cam3", "cam4", "cam5")
    seen = {(camera, f"{i:04d}"): 12 + n % 2 for n, camera in enumerate(CAMERAS)
            for part, own in people.items() for i in own if sees(camera, part)}
    write_permutations(root, seen)
    for part, own in people.items(): (root / f"exp/{part}_id.txt").write_text(",".join(map(str, own)) + "\n")


A_FEW = {"train": range(1, 7), "val": range(20, 24), "test": range(7, 13)}


def sysu_tree(root, official=False, people=A_FEW, outsiders=(40,)):
    "A SYSU-MM01 with the official lists, or with look-alikes for `people`; `outsiders` are in no list."
    (root / "exp").mkdir(parents=True)
    if official:
        for file in (OFFICIAL / "sysu-mm01/exp").iterdir(): shutil.copyfile(file, root / "exp" / file.name)
    else:
        sysu_lists(root, {part: list(people[part]) for part in PARTS} | {"none": list(outsiders)})
        (root / "exp/none_id.txt").unlink()
    encoded = pictures(root.parent / f"{root.name}-encoded", ".jpg")
    for (camera, identity), order in read_permutations(root).items():
        own = encoded[int(identity) % len(encoded)]
        for frame in range(1, order.shape[1] + 1): place(root, f"{camera}/{identity}/{frame:04d}.jpg", own)
    return root


def look_alikes(folder):
    "Both datasets with a dozen people."
    return {"regdb": regdb_tree(folder / "RegDB", people=12, each=6), "sysu": sysu_tree(folder / "SYSU-MM01")}


def filled(root, paths):
    "`root` with one of a few pictures at each of `paths`; images of one person look alike."
    encoded = pictures(root.parent / f"{root.name}-encoded", ".jpg")
    for path in paths: place(root, path, encoded[sum(map(ord, path.rpartition("/")[2][:8])) % len(encoded)])
    return root


def further(folder):
    "{name: root} of the other official datasets with a few people."
    people, llcm = {"train": range(1, 7), "test": range(7, 12)}, folder / "LLCM"
    vehicles = people | {"query": range(7, 10)}
    trees = {"llcm": filled(llcm, write_llcm(llcm, people)),
             "rgbnt201": filled(folder / "RGBNT201", rgbnt201_paths(people)),
             "msvr310": filled(folder / "MSVR310", msvr310_paths(vehicles))}
    for name, place_, stem in (("biwi", "BIWI", "biwi"), ("robotpku", "RobotPKU", "pku")):
        trees[name] = filled(folder / place_, write_rgbd(folder / place_, stem, people=16))
    return trees
