"""Folders and archives as people have them: what is read, what is left out and said, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
import unicodedata
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resexp.config import FolderData
from resexp.data import open_dataset
from resexp.data.dataset import Dataset
from resexp.data.imagenet.tree import open_tree
from resexp.data.layout import find_layout
from resexp.errors import UserError
from resexp.utils.paths import expanded

Command = Callable[..., "subprocess.CompletedProcess[str]"]

PLAIN = [f"{split}/{name}/{i}.png" for split in ("train", "test") for name in ("cat", "dog") for i in range(2)]


def layout(names: Iterable[str], **texts: str) -> dict[str, tuple[str, str, str]]:
    return find_layout(Path("set"), names, lambda name: texts[Path(name).stem].encode()).entries


def remarks(names: Iterable[str], **texts: str) -> list[str]:
    return find_layout(Path("set"), names, lambda name: texts[Path(name).stem].encode()).remarks


def renamed(old: str, new: str) -> list[str]:
    return [name.replace(old, new) for name in PLAIN]


def write(root: Path, names: Iterable[str] = PLAIN, size: int = 8) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith((".png", ".webp", ".tif", ".ppm")):
            pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name)
        else:
            (root / name).write_text("text")
    return root


def opened(path: Path) -> Dataset:
    return open_dataset(FolderData(source="folder", path=str(path)))


# -- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (PLAIN, None),
        ([f"outer/set/{name}" for name in PLAIN], None),
        (renamed("test/", "val/"), "val/ is read as the test images"),
        (renamed("test/", "Validation/"), "Validation/ is read as the test images"),
        ([name.replace("train", "Train").replace("test", "Test") for name in PLAIN], None),
        ([name.replace("/", "\\") for name in PLAIN], None),
        ([f"./{name}" for name in PLAIN], None),
        (
            [name.replace("train/", "Training Set/").replace("test/", "Test Set/") for name in PLAIN],
            "Test Set/ is read as",
        ),
        (
            [name.replace("train/", "train_data/").replace("test/", "val-data/") for name in PLAIN],
            "val-data/ is read as",
        ),
        (
            [name.replace("train/", "training_images/").replace("test/", "testing_images/") for name in PLAIN],
            "testing_images/ is read as",
        ),
        ([name.replace("cat/", "cat/images/") for name in PLAIN], "4 images lie in folders inside classes"),
        (
            [name.replace("test/", "seg_test/").replace("train/", "seg_train/") for name in PLAIN],
            "seg_test/ is read as",
        ),
    ],
)
def test_a_layout_that_is_near_is_read_where_it_is_unambiguous(names: list[str], said: str | None) -> None:
    found = sorted(layout(names).values())
    assert [(split, name) for split, name, _ in found] == sorted((n.split("/")[0], n.split("/")[1]) for n in PLAIN)
    assert [line for line in remarks(names) if said and said in line] == ([] if said is None else remarks(names))


def test_a_split_in_a_folder_of_its_own_name_is_read() -> None:
    """As the archives of intel-image-classification unpack; a class may still be called train."""
    names = [name.replace("train/", "train/train/").replace("test/", "test/test/") for name in PLAIN]
    assert sorted(layout(names).values()) == sorted(layout(PLAIN).values())
    assert remarks(names) == ["test/test/ is read as test/", "train/train/ is read as train/"]
    classes = [name.replace("cat/", "train/").replace("dog/", "test/") for name in PLAIN]
    assert {of for _, of, _ in layout(classes).values()} == {"train", "test"}


def test_tiny_imagenet_is_read_with_its_table() -> None:
    names = [f"train/{wnid}/images/{wnid}_{i}.JPEG" for wnid in ("n1", "n2") for i in range(2)]
    names += ["val/images/val_0.JPEG", "val/images/val_1.JPEG", "val/val_annotations.txt", "test/images/test_0.JPEG"]
    table = "val_0.JPEG\tn2\t0\t0\t1\t1\nval_1.JPEG\tn1\t0\t0\t1\t1\n"
    found = layout(names, val_annotations=table)
    assert found["val/images/val_0.JPEG"] == ("test", "n2", "val_0.JPEG")
    assert found["val/images/val_1.JPEG"] == ("test", "n1", "val_1.JPEG")
    assert len(found) == 6
    assert any("1 in test/" in line and "left out" in line for line in remarks(names, val_annotations=table))
    with pytest.raises(UserError, match=r"labels 1 images that are not there, such as val_9\.JPEG"):
        layout(names, val_annotations=table + "val_9.JPEG\tn1\t0\n")


def test_two_unicode_forms_of_a_name_are_one_class() -> None:
    composed, apart = "café", unicodedata.normalize("NFD", "café")
    names = [f"{s}/{c}/0.png" for s, c in (("train", composed), ("train", "dog"), ("test", apart), ("test", "dog"))]
    assert {name for _, name, _ in layout(names).values()} == {composed, "dog"}
    assert remarks(names) == [f"{composed}: spelt in two Unicode forms in train/ and test/, and taken as one class"]


def test_every_archive_of_a_set_is_the_set(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    want = opened(folder).fingerprint
    made = []
    for kind in ("", "gz", "bz2", "xz"):
        made.append(tmp_path / f"set.tar.{kind}")
        with tarfile.open(made[-1], f"w:{kind}") as tar:
            tar.add(folder, "deep/set")
    made.append(tmp_path / "windows.zip")
    with zipfile.ZipFile(made[-1], "w") as archive:
        for name in PLAIN:
            archive.writestr(name, (folder / name).read_bytes())
    slashes = made[-1].read_bytes()
    for name in PLAIN:
        slashes = slashes.replace(name.encode(), name.replace("/", "\\").encode())
    made[-1].write_bytes(slashes)
    assert [opened(path).fingerprint for path in made] == [want] * 5


# -- what is left out, and said ---------------------------------------------------------------------------------------


def test_what_is_left_out_is_counted_named_and_kept_in_the_manifest(tmp_path: Path) -> None:
    odd = ["train/cat/a.heic", "train/dog/b.heic", "test/notes.txt", "readme.md", "train/cat/.DS_Store", "other/x.png"]
    data = opened(write(tmp_path / "set", PLAIN + odd))
    assert len(data.train()[0]) == 4
    (line,) = [line for line in data.remarks if "left out" in line]
    assert "6 files left out: 2 .heic, 1 .txt, 1 hidden, 1 in other/, 1 next to the splits (" in line
    assert data.findings.left_out == {".heic": 2, ".txt": 1, "hidden": 1, "in other/": 1, "next to the splits": 1}


@pytest.mark.parametrize("names", [renamed("test/", "val/"), [n.replace("test/", "test/test/") for n in PLAIN]])
def test_no_name_in_a_remark_commands_the_terminal(names: list[str]) -> None:
    for odd in ("x\x1b[31m", "\udcff"):
        (line,) = remarks(f"{odd}/{name}" for name in names)
        assert line.startswith(f"{odd[:-5]}\N{REPLACEMENT CHARACTER}")
        assert line.isprintable()


def test_val_beside_test_is_said() -> None:
    names = PLAIN + [name.replace("test", "val") for name in PLAIN if name.startswith("test")]
    assert len(layout(names)) == 8
    assert remarks(names)[0].startswith("4 files left out: 4 in val/ (")


def test_a_class_folder_without_images_is_said(tmp_path: Path) -> None:
    write(tmp_path / "set")
    (tmp_path / "set/train/empty").mkdir()
    assert any("1 class folder without images left out: empty" in line for line in opened(tmp_path / "set").remarks)


def test_duplicates_and_conflicting_labels_are_found(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    shutil.copy(root / "train/cat/0.png", root / "test/cat/0.png")
    Image.open(root / "train/cat/1.png").save(root / "train/dog/1.bmp")  # the same pixels in another format
    data = opened(root)
    assert (data.findings.test_in_train, data.findings.conflicting_labels) == (1, 2)
    lines = " ".join(data.remarks)
    assert "1 test image is a training image too: train/cat/0.png = test/cat/0.png" in lines
    assert "2 images have another label elsewhere: train/cat/1.png = train/dog/1.bmp" in lines


def test_frames_and_transparency_are_said(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(root / "train/cat/0.png", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (8, 8), (1, 2, 3, 0)).save(root / "train/cat/1.png")
    lines = " ".join(opened(root).remarks)
    assert "1 image has several frames; the first is used: train/cat/0.png" in lines
    assert "1 image has transparent pixels, whose colours are used: train/cat/1.png" in lines


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["cat/0.png", "dog/0.png"], "its images lie in cat, dog; sort them into train/<class>/"),
        (["0.png"], "its images lie in no folder"),
        (["a.heic", "b.heic", "c.txt"], r"it holds 2 .heic, 1 .txt; what is read is .apng, .*, .webp$"),
        (["train.zip", "test.zip"], "it holds 2 .zip; unpack what is packed"),
        ([], "it is empty"),
        (["cifar-10-batches-py/data_batch_1"], "set data.source to cifar10"),
        (["cifar-100-python/meta", "cifar-100-python/train", "cifar-100-python/test"], "set data.source to cifar100"),
        (["test_32x32.mat", "train_32x32.mat"], "set data.source to svhn"),
        (renamed("test/dog", "test/wolf"), "class dog is in train/ but not in test/, and class wolf is in test/"),
        ([n for n in PLAIN if "dog" not in n], "only one class, cat"),
        (
            [n.replace("n/", "n/images/").replace("t/", "t/images/") for n in PLAIN],
            "its folders, cat, dog, are the classes",
        ),
        ([f"{top}/{name}" for top in "xy" for name in PLAIN], "holds several sets of images, x, y"),
        ([name for name in PLAIN if "train" in name], "no images in test/<class>/"),
        (
            [f"{of}/{split}/0.png" for of in ("cat", "dog") for split in ("train", "test")],
            "inside the classes, such as in cat/train/; sort",
        ),
    ],
)
def test_what_is_there_is_named_where_it_can_not_be_read(names: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        layout(names)
    assert len(error.value.args) == 1


def test_the_folder_of_a_split_is_not_to_be_sorted_again() -> None:
    with pytest.raises(UserError, match=r"its images lie in cat, dog; name the folder above in data\.path"):
        find_layout(Path("set/train"), ["cat/0.png", "dog/0.png"], lambda name: b"")


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (b"\x28\xb5\x2f\xfd", "Zstandard"),
        (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
        (b"Rar!\x1a\x07\x00", "RAR"),
        (b"<html><body>404", "a web page"),
        (b"version https://git-lfs.github.com", "run `git lfs pull`"),
        (b"\x89PNG\r\n\x1a\n", "set.tar: a PNG image; name a folder"),
        (b"PAR1", "set.tar: a Parquet table; name a folder"),
        (gzip.compress(b"\0\0\x08\x03" + bytes(600), mtime=0), "a compressed file, with a file of MNIST's format"),
        (lzma.compress(b"hello"), "a compressed file, with no tar archive in it; name a folder"),
        (b"hello", "not a .zip, .tar, .* or damaged from its beginning"),
    ],
)
def test_a_good_file_of_another_kind_is_not_to_be_fetched_again(tmp_path: Path, start: bytes, says: str) -> None:
    path = tmp_path / "set.tar"
    path.write_bytes(start if start[:2] in (b"\x1f\x8b", b"\xfd7") else start + bytes(600))
    with pytest.raises(UserError, match=says) as error:
        opened(path)
    assert "again" not in f"{error.value}"


def test_names_from_the_root_are_refused_with_what_to_do(tmp_path: Path) -> None:
    """As `tar -P` packs them: nothing says that their author means ill."""
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("/train/cat/0.png"))
    with pytest.raises(UserError, match="would leave its folder; pack the folder again with names relative to it"):
        opened(tmp_path / "set.tar")


def test_images_of_several_sizes_are_said_to_be_in_data(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    Image.new("RGB", (12, 12)).save(root / PLAIN[0])
    with pytest.raises(UserError, match=r"^data: the images have different sizes \(12x12, 8x8, "):
        opened(root)


def test_an_encrypted_zip_is_called_so(tmp_path: Path) -> None:
    root, path = write(tmp_path / "set"), tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in PLAIN:
            archive.write(root / name, name)
    content = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := content.find(mark, at + 1)) >= 0:
            content[at + flags] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is encrypted; unpack it with its password"):
        opened(path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_archive_behind_another_is_not_left_out_silently(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """As `cat a.tar b.tar` writes them: readers of tars end where the first does."""
    root, path = write(tmp_path / "set"), tmp_path / "set.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(root, "set")
    path.write_bytes(pack(path.read_bytes()) * 2)
    with pytest.raises(UserError, match="more follows behind the archive's end; pack all files in one archive"):
        opened(path)


def test_an_archive_of_no_bytes_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "set.zip").touch()
    with pytest.raises(UserError, match=r"set\.zip: empty; fetch or pack it again"):
        opened(tmp_path / "set.zip")


def test_a_link_in_a_zip_is_called_so(tmp_path: Path) -> None:
    """As `zip --symlinks` packs it: its content is a name."""
    root, path = write(tmp_path / "set"), tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in PLAIN[1:]:
            archive.write(root / name, name)
        link = zipfile.ZipInfo(PLAIN[0])
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "1.png")
    with pytest.raises(UserError, match=r"train/cat/0\.png is a link; pack plain files only, without `zip --symlinks`"):
        opened(path)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_archive_is_read_to_its_checksum(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """A bitmap has no checksum of its own: of one wrong byte nothing else would tell."""
    root, path = write(tmp_path / "set"), tmp_path / "set.tar"
    for name in PLAIN:
        Image.open(root / name).save((root / name).with_suffix(".bmp"))
        (root / name).unlink()
    with tarfile.open(path, "w") as archive:
        archive.add(root, "set")
    packed = bytearray(pack(path.read_bytes()))
    assert opened(path).classes == ["cat", "dog"]
    path.write_bytes(packed)
    assert opened(path).classes == ["cat", "dog"]
    packed[-6] ^= 1  # of the checksum, which stands at the end
    path.write_bytes(packed)
    with pytest.raises(UserError, match="truncated or damaged archive"):
        opened(path)


def test_all_links_to_nothing_are_counted_and_named(tmp_path: Path, here: Command) -> None:
    root = write(tmp_path / "set")
    for name in ("a", "b"):
        (root / f"train/cat/{name}.png").symlink_to("nowhere")
    line = r"2 images can't be read: train/cat/a.png \(No such file.*\), train/cat/b.png .*; restore them"
    with pytest.raises(UserError, match=line):
        opened(root)
    (root / "test/dog/0.png").write_text("no image")
    (tmp_path / "s.yaml").write_text(f"data: {{source: folder, path: {root}}}")
    checked = here("data", "check", "--config", tmp_path / "s.yaml")
    assert checked.returncode == 1
    assert checked.stdout.splitlines() == [
        f"{root}: test/dog/0.png: not an image",
        f"{root}: train/cat/a.png: No such file or directory",
        f"{root}: train/cat/b.png: No such file or directory",
        "3 images can't be read",
    ]
    assert not checked.stderr


def test_a_pipe_in_place_of_an_archive_is_not_waited_for(tmp_path: Path, here: Command) -> None:
    os.mkfifo(tmp_path / "set.tar")
    (tmp_path / "s.yaml").write_text("data: {source: folder, path: set.tar}")
    checked = here("data", "check", "--config", tmp_path / "s.yaml")
    assert (checked.returncode, checked.stdout) == (2, "")
    assert checked.stderr == "resexp: set.tar: not a plain file; name a folder or an archive in data.path\n"
    with pytest.raises(UserError, match=r"set\.tar: not a plain file"):
        opened(tmp_path / "set.tar")


def test_all_unreadable_images_are_counted_and_three_are_named(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    for i in range(5):
        (root / f"train/cat/x{i}.png").write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"5 images can't be read: train/cat/x0.png \(a web page.* and 2 more; restore"):
        opened(root)


def test_large_images_need_only_the_memory_of_what_is_kept_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(tmp_path / "set", size=64)
    monkeypatch.setattr("resexp.data.folder.memory", lambda: 8 * 8 * 8 * 3)
    with pytest.raises(UserError, match=r"set data\.resize"):
        opened(root)
    data = open_dataset(FolderData(source="folder", path=str(root), resize=8))
    monkeypatch.undo()
    assert data.train()[0].shape == (4, 8, 8, 3)
    # The images are those of the files, whatever they are resized to.
    assert data.fingerprint == opened(root).fingerprint


# -- ImageNet's folders -----------------------------------------------------------------------------------------------


def test_imagenet_says_what_is_near_and_what_is_left_out(tmp_path: Path) -> None:
    root = write(tmp_path / "set", renamed("test/", "Val/"))
    with pytest.raises(UserError, match=r"it holds Val/, train/: rename Val/ to val/, or link it"):
        open_tree(root)
    (root / "Val").rename(root / "val")
    write(root, ["train/cat/a.heic", "train/cat/more/b.png"])
    tree = open_tree(root)
    assert (tree.images("train"), tree.left_out) == (5, {".heic": 1})
    assert tree.remarks == ["1 file left out: 1 .heic (train/cat/a.heic)"]


def test_imagenet_says_that_a_third_split_is_left_out(tmp_path: Path) -> None:
    root = write(tmp_path / "set", renamed("test/", "val/"))
    write(root, ["test/0.png"])
    assert open_tree(root).remarks == ["test/ next to train/ and val/ is left out"]


def test_imagenet_names_archives_that_are_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "ILSVRC2012_img_train.tar").touch()
    line = r"train: no such folder; .* it holds ILSVRC2012_img_train\.tar; unpack what is packed"
    with pytest.raises(UserError, match=line):
        open_tree(tmp_path)


def test_a_link_that_leads_to_itself_is_no_image(tmp_path: Path) -> None:
    root = write(tmp_path / "set", [name.replace("test/", "val/") for name in PLAIN])
    (root / "train/cat/loop.png").symlink_to("loop.png")
    (root / "train/cat/nothing.png").symlink_to("nowhere")
    tree = open_tree(root)
    assert tree.left_out == {".png": 2}
    assert "2 files left out: 2 .png (train/cat/loop.png, train/cat/nothing.png)" in tree.remarks
    with pytest.raises(
        UserError, match=r"2 images can't be read: train/cat/loop.png \(Too many levels.*\), train/cat/no"
    ):
        opened(root)


def test_a_link_that_leads_above_its_class_adds_no_images(tmp_path: Path) -> None:
    """Followed, it would give the images of one class the label of another."""
    root = write(tmp_path / "set", renamed("test/", "val/"))
    before = open_tree(root).images("train")
    (root / "train/cat/all").symlink_to("..")
    (root / "train/cat/set").symlink_to("../..")
    assert open_tree(root).images("train") == before


@pytest.mark.parametrize("suffix", [".webp", ".tif", ".ppm"])
def test_imagenet_reads_every_suffix_that_a_folder_may_have(tmp_path: Path, suffix: str) -> None:
    names = [f"{Path(name).with_suffix(suffix)}" for name in renamed("test/", "val/")]
    tree = open_tree(write(tmp_path / "set", names))
    assert (tree.images("train"), tree.left_out) == (4, {})


@pytest.mark.parametrize(
    ("table", "label"),
    [
        ("a,b\n0.png,cat 1 2 3 4\n1.png,dog\n", 1),
        ("\ufeffa,b\r\n0,cat 1 2 3 4\r\n1,dog\r\n", 1),
        ("a;b\n0;cat\n1;dog\n", None),
    ],
)
def test_tables_of_labels_as_spreadsheets_write_them(tmp_path: Path, table: str, label: int | None) -> None:
    """With a mark of byte order, with Windows' ends of lines, and with suffixes; semicolons are refused."""
    root = write(tmp_path / "set", [*(n for n in PLAIN if n.startswith("train")), "val/0.png", "val/1.png"])
    (root / "LOC_val_solution.csv").write_text(table, encoding="utf-8")
    if label is None:
        with pytest.raises(UserError, match="no line is a name, a comma and a class"):
            open_tree(root)
    else:
        assert open_tree(root).files["val"].labels.tolist() == [0, label]


# -- paths ------------------------------------------------------------------------------------------------------------


def test_variables_and_home_folders_are_expanded_in_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert expanded("$SCRATCH/set") == expanded("${SCRATCH}/set") == tmp_path / "set"
    assert expanded("~/set") == tmp_path / "home/set"
    assert expanded("./~/set") == Path("./~/set")  # a folder that is called so
    monkeypatch.delenv("SCRATCH")
    with pytest.raises(UserError, match=r"\$SCRATCH/set: the environment variable SCRATCH is not set"):
        expanded("$SCRATCH/set")
    monkeypatch.setenv("NOTHING", "")
    for empty in ("", "$NOTHING"):
        with pytest.raises(UserError, match="an empty path; write one, or "):
            expanded(empty)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "$SCRATCH").mkdir()
    assert expanded("$SCRATCH") == Path("$SCRATCH")  # there is a file that is called so


# -- stops ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [("train", signal.SIGINT, 130), pytest.param("sweep", signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_stop_is_heard_while_images_are_decoded(tmp_path: Path, number: int, code: int, command: str) -> None:
    """Of a set that takes long; the same command begins again, and nothing is left behind."""
    root = tmp_path / "set"
    write(root, size=600)
    for i in range(300):
        shutil.copy(root / "train/cat/0.png", root / f"train/cat/c{i}.png")
    study = f"name: s\ndata: {{source: folder, path: {root}, resize: 8}}\nmodel: {{kind: plain, depth: 8, width: 2}}\n"
    (tmp_path / "s.yaml").write_text(study + "train: {steps: 1, batch_size: 2, device: cpu}\n")
    environment = {**os.environ, "RESEXP_DATA": str(tmp_path / "home"), "RESEXP_RESULTS": str(tmp_path / "results")}
    words = [sys.executable, "-m", "resexp", command, "--config", str(tmp_path / "s.yaml")]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("home/cache/.building-*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    began = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    took = time.monotonic() - began
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert took < 10
    assert not list(tmp_path.glob("home/cache/folder-*/meta.json"))
    assert not list(tmp_path.glob("home/cache/.building-*"))
