"""CIFAR-10, CIFAR-100 and SVHN as their authors publish them: read as torchvision reads them, and nothing else."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torchvision
from typer.testing import CliRunner

from resexp.cli import app
from resexp.config import Cifar10Data, Cifar100Data, OfficialData, RunConfig, SvhnData
from resexp.config.study import load, nets_of
from resexp.data import Dataset, data_home, official, open_dataset
from resexp.data.official import (
    CIFAR10_ARCHIVE,
    CIFAR100_ARCHIVE,
    SVHN_TEST,
    SVHN_TRAIN,
    OfficialFile,
    md5,
    official_set,
)
from resexp.errors import UserError

SOURCES: dict[str, Callable[..., OfficialData]] = {
    "cifar10": Cifar10Data,
    "cifar100": lambda **keys: Cifar100Data(source="cifar100", **keys),
    "svhn": lambda **keys: SvhnData(source="svhn", **keys),
}
FINE = [f"class {(7 * i) % 100:02}" for i in range(100)]
COARSE = [f"superclass {(3 * i) % 20:02}" for i in range(20)]
"""In no alphabetical order: it is the order of the file that counts."""


class Python2Pickler(pickle._Pickler):
    """Pickles as Python 2 did for the authors of CIFAR: all text is bytes."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_bytes(self, value: bytes | str) -> None:
        content = value.encode() if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(content).to_bytes(4, "little") + content)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_bytes


def pickled(value: object) -> bytes:
    stream = io.BytesIO()
    Python2Pickler(stream, 2).dump(value)
    content = stream.getvalue().replace(b"numpy._core", b"numpy.core")  # its name at the time
    assert all(isinstance(key, bytes) for key in pickle.loads(content, encoding="bytes"))
    return content


def pack(folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)


def patched(set_: official.Cifar, folder: Path) -> official.Cifar:
    """The set with the md5s of what lies in `folder`, packed and unpacked."""
    batches = {name: md5((folder / set_.folder / name).read_bytes()) for name in set_.batches}
    archive = replace(set_.archive, md5=md5((folder / set_.archive.name).read_bytes()))
    return replace(set_, files=(archive,), batches=batches)


@dataclass
class Small:
    """Folders of small sets in the official formats, whose md5s are taken for the official ones."""

    packed: Path
    unpacked: Path
    """Also the root for torchvision."""

    def theirs(self, source: str) -> tuple[Any, Any]:
        """torchvision's training and test set."""
        if source == "svhn":
            return tuple(torchvision.datasets.SVHN(self.unpacked, split) for split in ("train", "test"))  # type: ignore[return-value]
        of = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[source]
        return of(self.unpacked, train=True), of(self.unpacked, train=False)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    rng = np.random.default_rng(0)
    packed, unpacked = tmp_path / "packed", tmp_path / "unpacked"
    packed.mkdir()

    def rows(count: int) -> Any:
        return rng.integers(0, 256, (count, 3072), dtype=np.uint8)

    ten, hundred = unpacked / "cifar-10-batches-py", unpacked / "cifar-100-python"
    ten.mkdir(parents=True)
    hundred.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (ten / name).write_bytes(pickled({"data": rows(20), "labels": [int(i) for i in rng.integers(0, 10, 20)]}))
    (ten / "batches.meta").write_bytes(pickled({"label_names": list(official.CIFAR10.classes)}))
    for name, count in (("train", 300), ("test", 200)):
        fine = [int(i) for i in rng.permutation(count) % 100]
        batch = {"data": rows(count), "fine_labels": fine, "coarse_labels": [label // 5 for label in fine]}
        (hundred / name).write_bytes(pickled(batch))
    (hundred / "meta").write_bytes(pickled({"fine_label_names": FINE, "coarse_label_names": COARSE}))
    for file, count in ((SVHN_TRAIN, 30), (SVHN_TEST, 20)):
        images = rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = rng.permutation(count)[:, None] % 10 + 1
        scipy.io.savemat(unpacked / file.name, {"X": images, "y": labels.astype(np.uint8)}, do_compression=True)
        shutil.copy(unpacked / file.name, packed)
    pack(ten, packed / CIFAR10_ARCHIVE.name)
    pack(hundred, packed / CIFAR100_ARCHIVE.name)

    for folder in (ten, hundred):
        shutil.copytree(folder, packed / folder.name)  # for the md5s
    sets = patched(official.CIFAR10, packed), patched(official.CIFAR100, packed)
    for folder in (ten, hundred):
        shutil.rmtree(packed / folder.name)
    digits = tuple(replace(file, md5=md5((packed / file.name).read_bytes())) for file in (SVHN_TRAIN, SVHN_TEST))
    monkeypatch.setattr(official, "CIFAR10", sets[0])
    monkeypatch.setattr(official, "CIFAR100", sets[1])
    monkeypatch.setattr(official, "SVHN", replace(official.SVHN, files=digits))
    monkeypatch.setattr(official, "FILES", (*sets[0].files, *sets[1].files, *digits))
    for module in (torchvision.datasets.cifar, torchvision.datasets.svhn):
        monkeypatch.setattr(module, "check_integrity", lambda *_: True)
    return Small(packed, unpacked)


def opened(source: str, path: Path, **keys: object) -> Dataset:
    return open_dataset(SOURCES[source](path=str(path), **keys))


# -- torchvision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(official.CIFAR10, torchvision.datasets.CIFAR10), (official.CIFAR100, torchvision.datasets.CIFAR100)],
    ids=["cifar10", "cifar100"],
)
def test_names_and_md5s_of_cifar_are_torchvisions(ours: official.Cifar, theirs: Any) -> None:
    """They stand here as text: importing torchvision takes seconds, and no other command needs it."""
    assert (ours.archive.name, ours.archive.md5) == (theirs.filename, theirs.tgz_md5)
    assert (ours.archive.mirrors[-1], ours.folder) == (theirs.url, theirs.base_folder)
    files = [*theirs.train_list, *theirs.test_list]
    if not ours.classes:
        files.append([theirs.meta["filename"], theirs.meta["md5"]])
    assert list(ours.batches.items()) == [tuple(file) for file in files]


def test_names_and_md5s_of_svhn_are_torchvisions() -> None:
    theirs = torchvision.datasets.SVHN.split_list
    found = [[file.mirrors[-1], file.name, file.md5] for file in official.SVHN.files]
    assert found == [theirs["train"], theirs["test"]]


@pytest.mark.parametrize("source", SOURCES)
def test_the_images_are_those_that_torchvision_reads_in_its_order(small: Small, source: str) -> None:
    ours = opened(source, small.packed)
    assert ours.name == source
    for (images, labels), theirs in zip((ours.train(), ours.test()), small.theirs(source), strict=True):
        expected = theirs.data.transpose(0, 2, 3, 1) if source == "svhn" else theirs.data
        assert np.array_equal(images, expected)
        assert labels.tolist() == list(getattr(theirs, "labels" if source == "svhn" else "targets"))
        assert images.dtype == np.uint8
        assert len(images) in (100, 300, 30, 20, 200)
    if source != "svhn":
        assert ours.classes == small.theirs(source)[0].classes


def test_cifar_100_has_100_classes_or_their_20_superclasses_in_the_order_of_the_file(small: Small) -> None:
    fine, coarse = (opened("cifar100", small.packed, labels=labels) for labels in ("fine", "coarse"))
    assert (fine.classes, coarse.classes) == (FINE, COARSE)
    assert np.array_equal(fine.train()[0], coarse.train()[0])
    assert (fine.train()[1] // 5).tolist() == coarse.train()[1].tolist()
    assert (fine.name, coarse.name) == ("cifar100", "cifar100-coarse")
    assert fine.fingerprint != coarse.fingerprint


def test_svhns_label_10_is_the_digit_0(small: Small) -> None:
    ours = opened("svhn", small.packed)
    raw = scipy.io.loadmat(small.packed / SVHN_TRAIN.name)["y"].ravel()
    assert ours.classes == list("0123456789")
    assert set(raw) == set(range(1, 11))
    assert ours.train()[1].tolist() == [0 if label == 10 else label for label in raw]


def test_a_row_holds_the_red_the_green_and_the_blue_plane_each_by_rows(small: Small) -> None:
    row = pickle.loads((small.unpacked / "cifar-100-python/train").read_bytes(), encoding="latin1")["data"][0]
    images, _ = opened("cifar100", small.packed).train()
    assert images[0, 1, 2].tolist() == [row[34], row[1024 + 34], row[2048 + 34]]


@pytest.mark.parametrize("source", SOURCES)
def test_the_set_may_be_named_by_its_file_its_folder_or_the_folder_above(small: Small, source: str) -> None:
    set_ = official_set(SOURCES[source]())
    expected = opened(source, small.packed).fingerprint
    places = [small.packed, small.packed / set_.files[0].name, small.unpacked]
    if isinstance(set_, official.Cifar):
        places.append(small.unpacked / set_.folder)
    for place in places:
        assert set_.decode(set_.find(str(place), data_home())).fingerprint() == expected


def test_a_folder_of_images_is_not_taken_for_cifar_100(tmp_path: Path) -> None:
    """Its classes lie in folders that are called as the files of CIFAR-100 are."""
    for split in ("train", "test"):
        (tmp_path / "images" / split / "cat").mkdir(parents=True)
    with pytest.raises(UserError, match=r"images/cifar-100-python.tar.gz: CIFAR-100 is not here; run"):
        opened("cifar100", tmp_path / "images")


# -- what the configuration says --------------------------------------------------------------------------------------


def test_svhn_is_not_flipped_unless_that_is_asked_for() -> None:
    plain, flipped = (RunConfig(data=SvhnData(source="svhn", **keys)) for keys in ({}, {"flip": True}))
    assert [SOURCES[source]().flip for source in SOURCES] == [True, True, False]
    assert RunConfig(data=SvhnData(source="svhn", flip=False)).signature == plain.signature != flipped.signature


def test_each_set_and_each_kind_of_labels_is_a_run_of_its_own() -> None:
    sets = [*(SOURCES[source]() for source in SOURCES), Cifar100Data(source="cifar100", labels="coarse")]
    assert [RunConfig(data=data).signature for data in sets] == ["45bd6307", "5fe58403", "db9bbd31", "58c8165b"]
    assert RunConfig(data=Cifar100Data(source="cifar100", labels="fine", path="x")).signature == "5fe58403"


@pytest.mark.parametrize(
    ("settings", "classes"),
    [
        (["data.source=cifar100"], 100),
        (["data.source=cifar100", "data.labels=coarse"], 20),
        (["data.source=svhn"], 10),
    ],
)
def test_the_number_of_classes_is_known_before_the_images_are_here(settings: list[str], classes: int) -> None:
    nets = nets_of("cifar10/resnet20", settings)
    assert [(net.size, net.classes) for net in nets] == [(32, classes)]


@pytest.mark.parametrize("source", ["cifar100", "svhn"])
def test_figure_6_of_other_images_has_its_nets_and_recipe(source: str) -> None:
    (study, cells), (_, original) = load(f"{source}/figure6"), load("cifar10/figure6")
    assert study.name == f"figure6-{source}"
    assert {cell.config.data for cell in cells} == {SOURCES[source]()}
    assert [(cell.label, cell.config.model, cell.config.train) for cell in cells] == [
        (cell.label, cell.config.model, cell.config.train) for cell in original
    ]


def test_mistakes_in_the_data_section_are_lines() -> None:
    for setting, says in (
        ("data.source=cifar_100", r"got 'cifar_100'; allowed: .*\(did you mean 'cifar100'\?\)"),
        ("data.source=shvn", r"\(did you mean 'svhn'\?\)"),
        ("data={source: cifar100, labels: corse}", r"allowed: fine, coarse \(did you mean 'coarse'\?\)"),
        ("data={source: svhn, labels: fine}", r"data.labels: unknown key"),
    ):
        with pytest.raises(UserError, match=says) as error:
            load("cifar10/resnet20", [setting])
        assert len(error.value.args) == 1


# -- what a person hears ----------------------------------------------------------------------------------------------


def test_svhn_says_that_the_extra_set_is_left_out(small: Small) -> None:
    assert opened("svhn", small.packed).remarks == (
        f"{small.packed}: the extra set, 531,131 images that are easier, is left out",
    )


def test_test_images_among_the_training_images_are_counted(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = (scipy.io.loadmat(small.packed / file.name) for file in official.SVHN.files)
    test["X"][..., :3] = train["X"][..., :3]
    scipy.io.savemat(small.packed / SVHN_TEST.name, {"X": test["X"], "y": test["y"]})
    changed = replace(SVHN_TEST, md5=md5((small.packed / SVHN_TEST.name).read_bytes()))
    monkeypatch.setattr(official, "SVHN", replace(official.SVHN, files=(official.SVHN.files[0], changed)))
    data = opened("svhn", small.packed)
    assert data.findings.test_in_train == 3
    assert "3 test images are training images too: train image 0 = test image 0" in data.remarks[1]


@pytest.mark.parametrize(
    ("source", "classes", "counts"),
    [("cifar10", 10, (100, 20)), ("cifar100", 100, (300, 200)), ("svhn", 10, (30, 20))],
)
def test_data_check_reads_and_names_the_set(small: Small, source: str, classes: int, counts: tuple[int, int]) -> None:
    done = CliRunner().invoke(app, ["data", "check", "-c", f"{source}/figure6", "--set", f"data.path={small.packed}"])
    last = done.stdout.splitlines()[-2:]
    fingerprint = opened(source, small.packed).fingerprint
    assert last == [
        f"{small.packed}: {source}, {classes} classes, {counts[0]} training and {counts[1]} test images, "
        f"fingerprint {fingerprint}",
        "0 images can't be read",
    ]
    assert done.exit_code == 0


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name", "mb"),
    [
        ("cifar10", "cifar-10-python.tar.gz", 170),
        ("cifar100", "cifar-100-python.tar.gz", 169),
        ("svhn", "train_32x32.mat", 182),
    ],
)
def test_a_missing_set_says_how_to_get_it(tmp_path: Path, source: str, name: str, mb: int) -> None:
    says = rf"{name}: .* is not here; run `resexp data fetch {source}`, or download {name} \({mb} MB, md5 \w+\) by hand"
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(UserError, match=says):
            opened(source, path)


def test_a_missing_test_set_is_named(small: Small) -> None:
    (small.packed / SVHN_TEST.name).unlink()
    with pytest.raises(UserError, match=r"test_32x32.mat: SVHN's test set is not here; .*run `resexp data fetch svhn`"):
        opened("svhn", small.packed)


def test_what_lies_there_instead_is_named(small: Small) -> None:
    (small.packed / CIFAR100_ARCHIVE.name).unlink()
    with pytest.raises(
        UserError, match=r"CIFAR-100 is not here; what is here is cifar-10-python.tar.gz \(CIFAR-10\), test_32x32.mat "
    ):
        opened("cifar100", small.packed)
    with pytest.raises(UserError, match=r"what is here is data_batch_1 \(CIFAR-10\), .* and 2 more; run"):
        opened("cifar100", small.unpacked / "cifar-10-batches-py")
    with pytest.raises(UserError, match=r"CIFAR-10 is not here; what is here is files of cifar100, for data\.source"):
        opened("cifar10", small.unpacked / "cifar-100-python")
    (small.packed / f"{CIFAR100_ARCHIVE.name}.part").touch()
    with pytest.raises(UserError, match=r"cifar-100-python\.tar\.gz\.part \(an unfinished download\)"):
        opened("cifar100", small.packed)


@pytest.mark.parametrize(
    ("source", "given", "says"),
    [
        ("cifar100", CIFAR10_ARCHIVE, "this is CIFAR-10, not CIFAR-100; set data.source to cifar10"),
        ("cifar10", CIFAR100_ARCHIVE, "this is CIFAR-100, not CIFAR-10; set data.source to cifar100"),
        ("svhn", CIFAR100_ARCHIVE, "this is CIFAR-100, not SVHN's training set; set data.source to cifar100"),
        ("cifar10", SVHN_TRAIN, "this is SVHN's training set, not CIFAR-10; set data.source to svhn"),
        (
            "svhn",
            SVHN_TEST,
            "this is SVHN's test set, not SVHN's training set; call it test_32x32.mat, and name its folder",
        ),
    ],
)
def test_another_official_file_is_named_whatever_it_is_called(
    small: Small, source: str, given: OfficialFile, says: str
) -> None:
    own = official_set(SOURCES[source]()).files[0]
    (path := small.packed / "renamed" / own.name).parent.mkdir()
    shutil.copy(small.packed / given.name, path)
    with pytest.raises(UserError, match=says) as error:
        opened(source, path)
    assert "delete" not in f"{error.value}"


@pytest.mark.parametrize(
    ("file", "name", "content", "says"),
    [
        (CIFAR10_ARCHIVE, "cifar-10-binary.tar.gz", b"", "its name is that of CIFAR-10's binary version,"),
        (CIFAR10_ARCHIVE, "cifar-100-python.tar.gz", b"", "its name is that of CIFAR-100,"),
        (CIFAR10_ARCHIVE, CIFAR10_ARCHIVE.name, b"<!DOCTYPE html><html>", "not a .tar.gz archive but a web page"),
        (CIFAR10_ARCHIVE, CIFAR10_ARCHIVE.name, b"version https://git-lfs.github.com/spec/v1", "run `git lfs pull`"),
        (CIFAR10_ARCHIVE, CIFAR10_ARCHIVE.name, b"PK\x03\x04", "not a .tar.gz archive but a zip archive"),
        (CIFAR10_ARCHIVE, "photo.png", b"\x89PNG", "not a .tar.gz archive but a PNG image"),
        (CIFAR10_ARCHIVE, CIFAR10_ARCHIVE.name, None, "another archive, which holds other"),
        (CIFAR100_ARCHIVE, "cifar-10-python.tar.gz", b"", "its name is that of CIFAR-10,"),
        (CIFAR100_ARCHIVE, "cifar-100-matlab.tar.gz", b"", "its name is that of CIFAR-100's MATLAB version,"),
        (CIFAR100_ARCHIVE, CIFAR100_ARCHIVE.name, None, "another archive, which holds other"),
        (SVHN_TRAIN, "extra_32x32.mat", b"MATLAB 5.0", "its name is that of SVHN's extra set,"),
        (SVHN_TRAIN, SVHN_TRAIN.name, b"\x89HDF", "not a MATLAB file but an HDF5 file"),
        (SVHN_TRAIN, SVHN_TRAIN.name, b"MATLAB 5.0", "damaged or truncated, 10 of 182,040,794 bytes"),
    ],
)
def test_a_good_file_of_another_kind_is_named_and_never_to_be_deleted(
    tmp_path: Path, file: OfficialFile, name: str, content: bytes | None, says: str
) -> None:
    path = tmp_path / name
    if content is None:
        with tarfile.open(path, "w:gz") as tar:
            tar.addfile(tarfile.TarInfo("other/file"))
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        file.verify(path)
    assert "delete" not in f"{error.value}"
    assert "fetch it again" not in f"{error.value}"


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:500] + bytes([b[500] ^ 1]) + b[501:], lambda b: b""])
@pytest.mark.parametrize("source", SOURCES)
def test_nothing_is_parsed_before_the_md5_is_right(
    small: Small, source: str, damage: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickle, "loads", lambda *a, **k: pytest.fail("opened a pickle"))
    monkeypatch.setattr(scipy.io, "loadmat", lambda *a, **k: pytest.fail("opened a MATLAB file"))
    path = small.packed / official_set(SOURCES[source]()).files[0].name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=rf"damaged.*: move this file elsewhere and run `resexp data fetch {source}`"):
        opened(source, path)


@pytest.mark.parametrize(
    ("set_", "batch"), [("CIFAR10", "data_batch_1"), ("CIFAR100", "train"), ("CIFAR100", "test"), ("CIFAR100", "meta")]
)
def test_no_pickle_of_an_unpacked_archive_is_opened_before_its_md5_is_right(
    small: Small, set_: str, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_pickles: list[bytes] = []
    loads = pickle.loads
    monkeypatch.setattr(pickle, "loads", lambda b, **k: opened_pickles.append(b) or loads(b, **k))
    ours: official.Cifar = getattr(official, set_)
    file = small.unpacked / ours.folder / batch
    file.write_bytes(b"somebody else's")
    with pytest.raises(UserError, match=rf"damaged or other files, {batch} .*; unpack {ours.archive.name} again"):
        ours.decode(file.parent)
    file.unlink()
    with pytest.raises(UserError, match=rf"without {batch}, though other batches are here"):
        ours.decode(file.parent)
    assert b"somebody else's" not in opened_pickles


def test_all_damaged_and_all_missing_batches_are_named(small: Small) -> None:
    folder = small.unpacked / "cifar-10-batches-py"
    for number in (2, 4):
        (folder / f"data_batch_{number}").write_bytes(b"cut short")
    with pytest.raises(UserError, match=r"other files, data_batch_2 \(md5 \w+\), data_batch_4 \(md5 \w+\); unpack"):
        opened("cifar10", folder)
    for number in (2, 4):
        (folder / f"data_batch_{number}").unlink()
    with pytest.raises(UserError, match="without data_batch_2, data_batch_4, though other batches are here; unpack"):
        opened("cifar10", folder)


def test_an_archive_without_its_compression_is_to_be_unpacked(small: Small) -> None:
    """As a browser may leave it."""
    path = small.packed / "cifar-10-python.tar"
    path.write_bytes(gzip.decompress((small.packed / CIFAR10_ARCHIVE.name).read_bytes()))
    with pytest.raises(UserError, match=r"not compressed by gzip \(unpack it, and name its folder in data.path\)"):
        opened("cifar10", path)


def test_a_batch_that_is_larger_than_the_archive_is_not_read(small: Small) -> None:
    with (file := small.unpacked / "cifar-100-python/train").open("wb") as stream:
        stream.truncate(CIFAR100_ARCHIVE.size + 1)
    with pytest.raises(UserError, match=rf"{file}: 169,001,438 bytes, over the limit"):
        opened("cifar100", file.parent)


@pytest.mark.parametrize("source", SOURCES)
def test_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path, source: str) -> None:
    path = tmp_path / official_set(SOURCES[source]()).files[0].name
    os.mkfifo(path)
    with pytest.raises(UserError, match="is not here"):
        opened(source, path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="is not here"):
        opened(source, path)
