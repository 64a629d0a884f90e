"""ImageNet's images: the index, its labels, decoding, views, caches, statistics, and the threads that read."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from resexp.cli import data as commands
from resexp.config import CacheConfig, ImageNetData
from resexp.config.study import load
from resexp.data import data_home, open_dataset
from resexp.data.imagenet import ImageNet, open_imagenet, tree
from resexp.data.imagenet import dataset as dataset_module
from resexp.data.imagenet.dataset import open_cache
from resexp.data.imagenet.example import make_example
from resexp.data.imagenet.labels import DEVKITS, META, TABLE, TRUTH
from resexp.data.imagenet.loader import ImageRequest, Loader, View, centre, plan, resize
from resexp.data.imagenet.prepare import check, prepare
from resexp.data.imagenet.statistics import statistics
from resexp.data.pixels import decode
from resexp.errors import UnreadableImageError, UserError
from tests.odd_images import add_odd, flatten

Cli = Callable[..., subprocess.CompletedProcess[str]]


def data(root: Path, **settings: object) -> ImageNetData:
    small = {"crop": 64, "resize_range": [64, 96], "val_resize": 72}
    return ImageNetData.model_validate({"source": "imagenet", "path": str(root), **small, **settings})


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, six training and four validation images each; tests copy it before they change it."""
    root = tmp_path_factory.mktemp("drawn") / "images"
    make_example(root, 3, 6, 4, 0)
    return root


@pytest.fixture
def root(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "images"))


def ignore(*_: object) -> None:
    """Progress that nobody looks at."""


def smooth(height: int, width: int) -> np.ndarray:
    """An image without edges: what a JPEG or another resampling does to it is small."""
    y, x = np.mgrid[:height, :width] / max(height, width) * 6
    return (
        np.stack([np.sin(y + x), np.cos(2 * y - x), np.sin(x * y / 3)], axis=-1)
        .__mul__(100)
        .__add__(128)
        .astype(np.uint8)
    )


def jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality, colorsubsampling="444")


# -- its section of a study -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"classes": 1}, r"classes: expected a number of classes, 2 at least, or a list of their folders' names"),
        ({"classes": "n1"}, r"classes: expected a number of classes"),
        ({"classes": ["n1"]}, r"classes: expected a number of classes"),
        ({"classes": ["n1", "n1"]}, r"classes: a class is listed twice"),
        (
            {"resize_range": [96, 64]},
            r"resize_range: expected the shortest length, then the longest, such as \[256, 480\]",
        ),
        ({"crop": 68}, r"resize_range: a crop of 68 does not fit into 64 pixels; set both"),
        ({"val_resize": 60}, r"val_resize: a crop of 64 does not fit into 60 pixels; set both"),
        ({"cache": {"side": 60}}, r"cache: images of 60 pixels are smaller than a crop, 64"),
        ({"cache": {"side": 64, "format": "raw", "quality": 90}}, r"cache.quality: is about JPEGs; leave it out"),
        ({"pad": 4}, r"pad: unknown key"),
    ],
)
def test_settings_that_can_not_be_are_refused(
    write_study: Callable[..., Path], settings: dict[str, object], line: str
) -> None:
    given = {**data(Path()).model_dump(mode="json", exclude_unset=True), **settings}
    study = write_study(data=None)
    with pytest.raises(UserError, match=line) as raised:
        load(str(study), [f"data={json.dumps(given)}"])
    assert len(raised.value.args) == 1


@pytest.mark.parametrize("spec", [{"side": 64}, {"side": 64, "format": "raw"}])
def test_what_a_run_folder_keeps_of_it_can_be_read_again(spec: dict[str, object]) -> None:
    config = data(Path(), classes=["n2", "n1"], cache=spec)
    assert config.classes == ("n1", "n2")
    assert ImageNetData.model_validate(config.model_dump(mode="json")) == config


def test_how_images_are_read_is_not_in_the_signature_and_what_they_are_is() -> None:
    config = data(Path())
    not_in_signature = {"path": "elsewhere", "workers": 7, "timeout": 3.0, "max_unreadable": 0.5}
    assert config.model_copy(update=not_in_signature).measured() == config.measured()
    for field, value in {"crop": 32, "pca_lighting": False, "classes": 2, "cache": {"side": 64}}.items():
        assert data(Path(), **{field: value}).measured() != config.measured()


# -- the index --------------------------------------------------------------------------------------------------------


def test_a_folder_laid_out_as_imagenet(root: Path) -> None:
    images = open_dataset(data(root))
    assert isinstance(images, ImageNet)
    assert (images.name, images.classes) == ("imagenet-3", ["n00000001", "n00000002", "n00000003"])
    assert (images.size, images.val_images, images.unreadable) == ((64, 64), 12, set())
    assert images.labels("train").tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert np.bincount(images.labels("val")).tolist() == [4, 4, 4]
    assert images.train_index.tolist() == list(range(18))
    assert images.val_index.tolist() == []
    assert images.file("train", 7) == root / "train/n00000002/n00000002_1.JPEG"
    files = [images.file(part, i) for part in ("train", "val") for i in range(images.images(part))]
    assert sorted(files) == sorted(root.rglob("*.JPEG"))


def test_it_is_imagenet_where_it_has_all_its_classes_and_images() -> None:
    files = {part: SimpleNamespace(labels=range(n)) for part, n in (("train", 1_281_167), ("val", 50_000))}
    images = ImageNet(Path(), ["n"] * 1000, files, [], {}, [], data(Path()), None)  # type: ignore[arg-type]
    assert images.name == "imagenet"
    files["val"].labels = range(49_999)
    assert images.name == "imagenet-1000"


def test_files_are_listed_once_and_again_when_one_is_added(root: Path, logged: list[str]) -> None:
    first = open_imagenet(data(root))
    again = open_imagenet(data(root))
    assert logged == [f"{root}: listing all images, once"]
    assert (again.fingerprint, again.labels("val").tolist()) == (first.fingerprint, first.labels("val").tolist())
    shutil.copy(root / "train/n00000001/n00000001_0.JPEG", root / "train/n00000003/a.jpg")
    more = open_imagenet(data(root))
    assert (len(logged), more.images("train"), more.file("train", 12).name) == (2, 19, "a.jpg")
    assert more.fingerprint != first.fingerprint


def test_other_images_of_the_same_names_and_sizes_are_another_set(root: Path) -> None:
    fingerprint = open_imagenet(data(root)).fingerprint
    for path in root.rglob("*.JPEG"):
        path.write_bytes(path.read_bytes()[:-3] + b"\0\xff\xd9")
    assert open_imagenet(data(root)).fingerprint != fingerprint


def test_a_file_that_is_added_while_others_are_listed_is_not_lost(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = tree._scan

    def slow(*words: Any) -> tree.Tree:
        found = scan(*words)
        shutil.copy(root / "train/n00000001/n00000001_0.JPEG", root / "train/n00000003/a.jpg")
        return found

    monkeypatch.setattr(tree, "_scan", slow)
    assert open_imagenet(data(root)).images("train") == 18
    monkeypatch.undo()
    assert open_imagenet(data(root)).images("train") == 19


def test_however_its_path_is_written_it_is_listed_once(root: Path, logged: list[str]) -> None:
    assert open_imagenet(data(root.parent)).remarks == [f"{root.parent}: read from {root}"]
    root.parent.joinpath("link").symlink_to(root)
    for path in (root, Path(os.path.relpath(root)), root.parent / "link", root):
        assert open_imagenet(data(path)).remarks == []
    assert len(logged) == 1


def test_a_damaged_index_is_made_again(root: Path) -> None:
    fingerprint = open_imagenet(data(root)).fingerprint
    (index,) = (data_home() / "cache").glob("imagenet-index-*.npz")
    index.write_bytes(index.read_bytes()[:1000])
    assert open_imagenet(data(root)).fingerprint == fingerprint


def test_what_is_no_image_is_passed_over_and_links_are_followed(root: Path, tmp_path: Path) -> None:
    before = open_imagenet(data(root)).fingerprint
    (root / "train/n00000001/.hidden.JPEG").write_bytes(b"x")
    (root / "train/n00000001/notes.txt").write_bytes(b"x")
    (root / "train/LIST.txt").write_bytes(b"x")
    (root / "train/.cache").mkdir()
    (root / "val/n00000002").rename(tmp_path / "elsewhere")
    (root / "val/n00000002").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(root)
    assert open_imagenet(data(tmp_path / "link")).fingerprint == before


@pytest.mark.parametrize(("asked", "kept"), [(2, [1, 2]), (["n00000003", "n00000001"], [1, 3])])
def test_a_subset_of_the_classes(root: Path, asked: object, kept: list[int]) -> None:
    everything, some = open_imagenet(data(root)), open_imagenet(data(root, classes=asked))
    assert some.classes == [f"n0000000{i}" for i in kept]
    assert some.labels("train").tolist() == [0] * 6 + [1] * 6
    assert {some.file("val", i).parent.name for i in range(8)} == set(some.classes)
    assert some.fingerprint != everything.fingerprint
    for part in ("train", "val"):
        shutil.rmtree(root / part / f"n0000000{6 - sum(kept)}")
    assert open_imagenet(data(root)).fingerprint == some.fingerprint


def test_reading_the_index_needs_no_torch() -> None:
    code = "import sys, resexp.data, resexp.data.imagenet; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- labels of a validation set that is not sorted --------------------------------------------------------------------


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """As `drawn`, but val/ is not sorted, and a devkit says the labels."""
    make_example(tmp_path / "flat", 3, 6, 4, 0)
    flatten(tmp_path / "flat")
    return tmp_path / "flat"


def test_a_flat_val_with_its_devkit_is_the_same_as_a_sorted_one(flat: Path, root: Path) -> None:
    images, expected = open_imagenet(data(flat)), open_imagenet(data(root))
    assert images.file("val", 0).parent == flat / "val"
    assert images.labels("val").tolist() == expected.labels("val").tolist()

    def contents(images: ImageNet) -> list[set[bytes]]:
        return [{images.read("val", i) for i in range(4 * label, 4 * label + 4)} for label in range(3)]

    assert contents(images) == contents(expected)
    assert open_imagenet(data(flat, classes=2)).labels("val").tolist() == [0] * 4 + [1] * 4


def test_a_devkits_label_is_that_of_the_number_in_the_name(flat: Path) -> None:
    """In the order of the names, val_10 comes before val_2."""
    before = open_imagenet(data(flat))
    labels = {before.read("val", i): label for i, label in enumerate(before.labels("val"))}
    for path in (flat / "val").iterdir():
        path.rename(path.with_name(f"val_{int(path.stem[-8:])}.JPEG"))
    after = open_imagenet(data(flat))
    assert {after.read("val", i): label for i, label in enumerate(after.labels("val"))} == labels
    (flat / "val/val_3.JPEG").rename(flat / "val/val_2 (1).JPEG")
    with pytest.raises(UserError, match=r"has no label for val_2 \(1\).JPEG; it belongs to other images"):
        open_imagenet(data(flat))
    (flat / "val/val_2 (1).JPEG").rename(flat / "val/val_02.JPEG")
    with pytest.raises(UserError, match=r"2 names several images, and .* has one label for them"):
        open_imagenet(data(flat))


def test_the_devkits_files_may_lie_under_devkit(flat: Path) -> None:
    labels = open_imagenet(data(flat)).labels("val").tolist()
    (flat / DEVKITS[0]).rename(flat / "devkit")
    assert open_imagenet(data(flat)).labels("val").tolist() == labels


def test_kaggles_table_says_the_labels(flat: Path) -> None:
    images = open_imagenet(data(flat))
    lines = [f"{images.file('val', i).stem},{images.classes[images.labels('val')[i]]} 1 2 3 4 \n" for i in range(12)]
    shutil.rmtree(flat / DEVKITS[0].split("/")[0])
    (flat / TABLE).write_text("ImageId,PredictionString\n" + "".join(sorted(lines, reverse=True)))
    table = open_imagenet(data(flat))
    assert table.labels("val").tolist() == images.labels("val").tolist()
    assert table.fingerprint == images.fingerprint


def no_labels(flat: Path) -> None:
    shutil.rmtree(flat / DEVKITS[0].split("/")[0])


def table(lines: list[str]) -> Callable[[Path], None]:
    def write(flat: Path) -> None:
        no_labels(flat)
        (flat / TABLE).write_text("\n".join(["ImageId,PredictionString", *lines]))

    return write


def truth(lines: str) -> Callable[[Path], None]:
    return lambda flat: (flat / DEVKITS[0] / TRUTH).write_text(lines) and None


def damage_meta(flat: Path) -> None:
    (flat / DEVKITS[0] / META).write_bytes(b"x" * 300)


def remove_meta(flat: Path) -> None:
    (flat / DEVKITS[0] / META).unlink()


def other_devkit(flat: Path) -> None:
    for part in ("train/n00000001", "train/n00000002"):
        (flat / part).rename((flat / part).with_name(f"m{part[-1]}"))


def one_class_without_val(flat: Path) -> None:
    shutil.copytree(flat / "train/n00000001", flat / "train/n00000009")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            no_labels,
            r"flat/val: images without labels; sort the images into val/<class>/, or put the devkit \(ILSVRC2012_",
        ),
        (truth("1\n2\n"), rf"{TRUTH}: 2 labels, but val/ has 12 images"),
        (truth("1\n" * 11 + "4\n"), rf"{TRUTH}: label 4 is not one of the 3 in meta.mat"),
        (truth("1\n" * 11 + "x\n"), rf"{TRUTH}: damaged, expected a number in each line"),
        (remove_meta, r"meta.mat: not there, though the rest of the devkit is; unpack"),
        (damage_meta, r"meta.mat: not the devkit's \(.*\); unpack the devkit again"),
        (
            other_devkit,
            rf"{TRUTH}: classes m1, m2 are in train/ but not in the labels of val/, and classes n00000001, ",
        ),
        (one_class_without_val, rf"{TRUTH}: class n00000009 is in train/ but not in the labels of val/"),
        (table(["a,n00000001 1 2 3 4"]), rf"{TABLE}: 1 labels, but val/ has 12 images"),
        (table(["x" * 200_000]), rf"{TABLE}: damaged \(field larger than"),
        (table([f"a{i},n00000001" for i in range(12)]), rf"{TABLE}: has no label for ILSVRC2012_val_00000001.JPEG"),
    ],
)
def test_labels_that_are_wrong_are_named(flat: Path, change: Callable[[Path], None], line: str) -> None:
    change(flat)
    with pytest.raises(UserError, match=line) as raised:
        open_imagenet(data(flat))
    assert len(raised.value.args) == 1


# -- folders that are not laid out so ---------------------------------------------------------------------------------


def without(*names: str) -> Callable[[Path], None]:
    def remove(root: Path) -> None:
        for name in names:
            shutil.rmtree(root / name)

    return remove


def empty(name: str) -> Callable[[Path], None]:
    def clear(root: Path) -> None:
        shutil.rmtree(root / name)
        (root / name).mkdir()

    return clear


@pytest.mark.parametrize(
    ("change", "settings", "line"),
    [
        (without("train"), {}, r"images/train: no such folder; data.path is to hold train/<class>/\* and val/"),
        (without("val"), {}, r"images/val: no such folder"),
        (empty("train"), {}, r"images/train: no class folders; expected train/<class>/\*.JPEG"),
        (empty("val"), {}, r"images/val: no images and no class folders \(.apng, "),
        (
            empty("train/n00000002"),
            {},
            r"train/n00000002: no images \(.apng, .bmp, .*\); fill the folder, or move it elsewhere",
        ),
        (empty("val/n00000003"), {}, r"val/n00000003: no images"),
        (
            without("val/n00000002"),
            {},
            r"images: class n00000002 is in train/ but not in val/; both need the same",
        ),
        (without("train/n00000001"), {}, r"images: class n00000001 is in val/ but not in train/"),
        (without("train/n00000001", "train/n00000002"), {}, r"images/train: only one class, n00000003"),
        (ignore, {"classes": 4}, r"images: 3 classes, and data.classes asks for 4"),
        (
            ignore,
            {"classes": ["n00000001", "n0000002"]},
            r"no class n0000002 \(data.classes\) \(did you mean 'n0000000",
        ),
    ],
)
def test_bad_folders_are_refused_in_one_line(
    root: Path, change: Callable[[Path], None], settings: dict[str, object], line: str
) -> None:
    change(root)
    with pytest.raises(UserError, match=line) as raised:
        open_imagenet(data(root, **settings))
    assert len(raised.value.args) == 1


def test_up_to_three_of_the_classes_that_differ_are_named(root: Path) -> None:
    for i in range(5):
        shutil.copytree(root / "train/n00000001", root / f"train/m{i}")
    with pytest.raises(UserError, match=r"classes m0, m1, m2 and 2 more are in train/ but not in val/"):
        open_imagenet(data(root))


# -- decoding ---------------------------------------------------------------------------------------------------------


def by_pillow(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("mode", "form", "options"),
    [
        ("RGB", "JPEG", {"subsampling": "4:2:0"}),
        ("RGB", "JPEG", {"subsampling": "4:4:4", "progressive": True}),
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "PNG", {}),
        ("P", "PNG", {}),
        ("RGBA", "PNG", {}),
    ],
)
def test_whatever_the_file_is_its_pixels_are_those_that_pillow_sees(
    mode: str, form: str, options: dict[str, object]
) -> None:
    content = saved(Image.fromarray(smooth(61, 90)).convert(mode), form, **options)
    image = decode(content)
    assert (image.shape, image.dtype) == ((61, 90, 3), np.uint8)
    assert image.flags.writeable
    assert np.abs(image - by_pillow(content)).max() <= 2


def test_bytes_behind_a_jpegs_end_do_no_harm() -> None:
    content = jpeg(smooth(40, 40))
    assert np.array_equal(decode(content + b"\0" * 100), decode(content))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"x" * 1000, "not an image"),
        (jpeg(smooth(64, 64))[:700], "truncated"),
        (saved(Image.fromarray(smooth(64, 64)), "PNG")[:2000], "truncated"),
        (
            jpeg(smooth(8, 8)).replace(b"\0\x08\0\x08\x03", b"\xff\xdc\xff\xdc\x03"),
            "65500x65500 pixels is over the limit",
        ),
    ],
)
def test_what_can_not_be_decoded_is_unreadable_and_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=reason):
        decode(content)


def test_large_photographs_are_decoded_small_but_not_below_twice_what_is_needed() -> None:
    content = jpeg(smooth(1200, 1600))
    assert decode(content).shape == (1200, 1600, 3)
    assert decode(content, 301).shape == (1200, 1600, 3)
    small = decode(content, 300)
    assert small.shape == (600, 800, 3)
    assert decode(content, 64).shape == (150, 200, 3)
    view = centre(72)
    full, reduced = (view.crop(i, 64).astype(int) for i in (decode(content), small))
    assert np.abs(full - reduced).max() <= 4


# -- views ------------------------------------------------------------------------------------------------------------


def test_a_view_is_a_crop_of_the_resized_image() -> None:
    """The slow way: resize all of it so that the shorter side is as asked for, then cut the crop out."""
    image = smooth(240, 320)
    for view in (View(120, 0.0, 0.0, False), View(160, 0.999, 0.999, True), View(96, 0.5, 0.25, False), centre(100)):
        height, width = view.side, round(320 * view.side / 240)
        whole = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        top, left = int(view.fy * (height - 64 + 1)), int(view.fx * (width - 64 + 1))
        expected = np.asarray(whole)[top : top + 64, left : left + 64]
        expected = expected[:, ::-1] if view.flip else expected
        seen = view.crop(image, 64)
        assert seen.shape == (64, 64, 3)
        assert np.abs(seen.astype(int) - expected).mean() < 2.5  # half a pixel's shift, and the crop's border


def test_resizing_is_pillows_antialiased_bilinear() -> None:
    image = np.random.default_rng(0).integers(0, 256, (150, 150, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(resize(image, 64, 64) - expected).max() <= 1


def test_boxes_lie_inside_and_reach_all_edges() -> None:
    assert View(64, 0.0, 0.0, False).box((50, 70), 64) == (0, 0, 50)
    assert View(64, 0.999, 0.999, False).box((50, 70), 64) == (0, 20, 50)
    assert View(128, 1.0, 1.0, False).box((50, 70), 64) == (25, 45, 25)
    assert View(480, 0.5, 0.5, False).box((3, 3000), 32) == (1, 1500, 1)
    assert centre(256).box((256, 341), 224) == (16, 59, 224)


def test_an_image_of_the_right_size_stays_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    assert np.array_equal(View(64, 0.5, 0.5, True).crop(image, 64), image[:, 8:72][:, ::-1])


# -- plans ------------------------------------------------------------------------------------------------------------


def test_an_epoch_is_a_pure_function_of_seed_and_number_and_has_every_image_once() -> None:
    config = data(Path())
    first, again, next_one = plan(1, 2, 1000, config), plan(1, 2, 1000, config), plan(1, 3, 1000, config)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert sorted(first.image) == sorted(next_one.image) == list(range(1000))
    assert not any(np.array_equal(a, b) for a, b in zip(first, next_one, strict=True))
    assert (first.side.min(), first.side.max()) == (64, 96)
    assert 430 < first.flip.sum() < 570
    assert 0.09 < first.lighting.std() < 0.11
    assert first.view(5) == View(first.side[5], first.fy[5], first.fx[5], first.flip[5])


def test_what_is_switched_off_leaves_the_rest_as_it_was() -> None:
    on, off = plan(0, 0, 50, data(Path())), plan(0, 0, 50, data(Path(), flip=False, pca_lighting=False))
    assert not off.flip.any()
    assert not off.lighting.any()
    assert all(np.array_equal(a, b) for a, b in zip(on[:4], off[:4], strict=True))


# -- prepared caches --------------------------------------------------------------------------------------------------


def prepared(root: Path, **spec: object) -> tuple[ImageNet, ImageNet]:
    """A set read from its files, and read from a cache."""
    files = open_imagenet(data(root))
    config = CacheConfig.model_validate(spec)
    prepare(files, config, ignore, 2)
    return files, open_imagenet(data(root, cache=config.model_dump()))


def test_a_jpeg_cache_keeps_small_images_as_they_are_and_makes_large_ones_smaller(root: Path) -> None:
    Image.fromarray(smooth(300, 600)).save(root / "train/n00000001/n00000001_0.JPEG", quality=95)
    files, cache = prepared(root, side=150)
    sizes = []
    for part in ("train", "val"):
        for i in range(files.images(part)):
            original, stored = files.pixels(part, i), cache.pixels(part, i)
            sizes.append(min(stored.shape[:2]))
            if min(original.shape[:2]) <= 150:
                assert cache.cache is not None
                assert cache.cache.read(part, i).tobytes() == files.read(part, i)
            else:
                assert min(stored.shape[:2]) == 150
    assert len(set(sizes)) > 5
    assert cache.pixels("train", 0).shape == (150, 300, 3)
    expected = np.asarray(Image.fromarray(smooth(300, 600)).resize((300, 150), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(cache.pixels("train", 0) - expected).mean() < 2


def test_a_raw_cache_holds_pixels(root: Path) -> None:
    files, cache = prepared(root, side=4096, format="raw")
    for part in ("train", "val"):
        for i in range(files.images(part)):
            assert np.array_equal(cache.pixels(part, i), files.pixels(part, i))
    assert min(prepared(root, side=80, format="raw")[1].pixels("val", 3).shape[:2]) == 80


def test_a_cache_is_of_its_own_data_and_settings_only(root: Path) -> None:
    prepared(root, side=100)
    for other in ({"side": 101}, {"side": 100, "quality": 90}, {"side": 100, "format": "raw"}):
        with pytest.raises(UserError, match=r"not there or damaged, and data\.cache asks for it; run `resexp data"):
            open_imagenet(data(root, cache=other))
    with pytest.raises(UserError, match=r"data\.cache asks for it"):
        open_imagenet(data(root, cache={"side": 100}, classes=2))
    (root / "train/n00000001/n00000001_0.JPEG").rename(root / "train/n00000001/new.JPEG")
    with pytest.raises(UserError, match=r"data\.cache asks for it"):
        open_imagenet(data(root, cache={"side": 100}))


def test_a_damaged_cache_is_refused_until_it_is_made_again(root: Path) -> None:
    _, cache = prepared(root, side=100)
    assert cache.cache is not None
    file = cache.cache.folder / "images.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"not there or damaged, and data\.cache asks for it; run `resexp data"):
        open_imagenet(data(root, cache={"side": 100}))
    prepared(root, side=100)
    assert file.read_bytes() == whole


def test_a_set_of_which_no_image_can_be_read_gets_no_cache(root: Path) -> None:
    for path in root.rglob("*.*"):
        path.write_text("x")
    settings = CacheConfig(side=72)
    dataset = open_imagenet(data(root))
    with pytest.raises(UserError, match="images: none of its images can be read; `resexp data check STUDY` says why"):
        prepare(dataset, settings, ignore, 2)
    (folder := dataset_module.cache_folder(dataset, settings)).mkdir()
    (folder / "images.bin").touch()  # as versions before this one left it
    np.savez(folder / "index.npz", train_ends=[0])
    (folder / "meta.json").write_text('{"bytes": {"images.bin": 0}, "unreadable": []}')
    assert open_cache(dataset, settings) is None


def test_a_cache_that_would_not_fit_is_not_begun(
    root: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    with pytest.raises(UserError, match=r"needs about 0.00\d+ GB, and 0.0001 GB are free; make room, set RESEXP_DATA"):
        prepare(open_imagenet(data(root)), CacheConfig(side=200, format="raw"), ignore, 1)
    assert "for 30 images; 0.0001 GB are free" in logged[-1]
    assert not list((data_home() / "cache").glob("*raw*/*"))


def test_a_cache_that_was_interrupted_leaves_nothing_behind(root: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(open_imagenet(data(root)), CacheConfig(side=100), interrupt, 2)
    assert [p.name for p in (data_home() / "cache").iterdir() if p.is_dir()] == []


# -- images that can't be read ----------------------------------------------------------------------------------------


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    make_example(tmp_path / "odd", 2, 4, 4, 0)
    add_odd(tmp_path / "odd" / "train" / "n00000001")
    return tmp_path / "odd"


BROKEN = ["train/n00000001/n00000001_empty.JPEG", "train/n00000001/n00000001_truncated.JPEG"]


def wants(dataset: ImageNet, part: str = "train") -> list[ImageRequest]:
    return [ImageRequest(part, i, centre(72)) for i in range(dataset.images(part))]  # type: ignore[arg-type, call-overload]


def test_an_unreadable_image_becomes_the_given_colour_and_is_counted(odd: Path) -> None:
    images = open_imagenet(data(odd, max_unreadable=0.5))
    out = np.zeros((13, 64, 64, 3), dtype=np.uint8)
    with Loader(images, 2, 60, (0.5, 0.25, 1)) as loader:
        places = loader.load(wants(images), out).wait()
        assert [images.shown("train", i) for i in places] == BROKEN
        assert loader.load(wants(images, "val"), out[:8]).wait().tolist() == []
        loader.load(wants(images), out).wait()
    assert images.unreadable == set(BROKEN)
    for place in places:
        assert (out[place] == [128, 64, 255]).all()
    assert len({image.tobytes() for image in out}) == 13 - 2  # the PNG is a copy, and the colour is there twice


def test_too_many_unreadable_images_end_it_with_their_names(odd: Path) -> None:
    images = open_imagenet(data(odd, max_unreadable=0.1))
    out = np.zeros((13, 64, 64, 3), dtype=np.uint8)
    with Loader(images, 1, 60) as loader, pytest.raises(UserError) as raised:
        loader.load(wants(images), out).wait()
    assert str(raised.value) == (
        f"{odd}: 2 of 13 train images can't be read, over 10.000% (data.max_unreadable): {', '.join(BROKEN)}; "
        f"`resexp data check` names them all"
    )


def test_a_file_that_is_gone_or_another_is_no_damaged_image(root: Path) -> None:
    """Or a file system that is away for a moment would make images grey, and a cache would keep them so."""
    images = open_imagenet(data(root))
    missing, pipe, other = (images.file("train", i) for i in range(3))
    missing.unlink()
    with pytest.raises(FileNotFoundError):
        images.pixels("train", 0)
    pipe.unlink()
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=r"not a plain file"):
        images.pixels("train", 1)
    other.write_bytes(other.read_bytes() + b"more")
    with pytest.raises(UserError, match=r"bytes, and had .* when the images were listed; put the old file back"):
        images.pixels("train", 2)
    assert [line.partition(": ")[0] for line in check(images, ignore, 2)[0]] == list(map(str, (missing, pipe, other)))
    with pytest.raises(FileNotFoundError):
        prepare(images, CacheConfig(side=100, format="raw"), ignore, 2)
    assert not images.unreadable


def test_caches_list_what_can_not_be_read(odd: Path, logged: list[str]) -> None:
    files = open_imagenet(data(odd))
    folder = prepare(files, CacheConfig(side=100, format="raw"), ignore, 2)
    assert logged[-1] == f"2 images can't be read, and are left empty: {', '.join(BROKEN)}"
    assert all(name in (folder / "meta.json").read_text() for name in BROKEN)
    cache = open_imagenet(data(odd, cache={"side": 100, "format": "raw"}))
    lines, _ = check(cache, ignore, 2)
    assert lines == [f"{odd / name}: could not be read when it was prepared" for name in BROKEN]


def test_a_damaged_cache_is_blamed_itself(root: Path) -> None:
    folder = prepare(open_imagenet(data(root)), CacheConfig(side=100), ignore, 2)
    stored = bytearray((folder / "images.bin").read_bytes())
    stored[:20_000] = bytes(20_000)
    (folder / "images.bin").write_bytes(stored)
    first, *_ = check(open_imagenet(data(root, cache={"side": 100})), ignore, 2)[0]
    remedy = "delete this folder, and run `resexp data prepare` again"
    assert first == f"{root}/train/n00000001/n00000001_0.JPEG: damaged in the cache {folder}; {remedy}"


# -- the loader -------------------------------------------------------------------------------------------------------


def test_batches_are_the_same_with_any_number_of_threads(root: Path) -> None:
    images = open_imagenet(data(root))
    drawn = plan(3, 1, 18, images.config)
    asked = [ImageRequest("train", int(drawn.image[i]), drawn.view(i)) for i in range(18)]
    expected = []
    for want in asked:
        image = decode(images.file("train", want.image).read_bytes(), want.view.side)
        expected.append(want.view.crop(image, 64))
    for workers in (1, 2, 5):
        out = np.zeros((18, 64, 64, 3), dtype=np.uint8)
        with Loader(images, workers, 60) as loader:
            first, second = loader.load(asked[:7], out[:7]), loader.load(asked[7:], out[7:])
            second.wait()
            first.wait()
        assert np.array_equal(out, expected)


def test_a_batch_of_nothing_is_there_at_once(root: Path) -> None:
    with Loader(open_imagenet(data(root)), 1, 60) as loader:
        assert loader.load([], np.empty((0, 64, 64, 3), dtype=np.uint8)).wait().tolist() == []


def test_an_image_that_does_not_come_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_imagenet(data(root))
    let_go, read = threading.Event(), dataset_module.read_file

    def stuck(path: Path, limit: int) -> bytes:
        if path.name == "n00000002_3.JPEG":
            let_go.wait()
        return read(path, limit)

    monkeypatch.setattr(dataset_module, "read_file", stuck)
    out = np.zeros((18, 64, 64, 3), dtype=np.uint8)
    with Loader(images, 2, 0.1) as loader:
        pending = loader.load(wants(images), out)
        with pytest.raises(
            UserError, match=r"n00000002/n00000002_3.JPEG: did not come within 0.1 s \(data.timeout\); see"
        ):
            pending.wait()
        let_go.set()
        assert pending.wait().tolist() == []


def test_what_a_thread_did_not_expect_is_raised_where_the_batch_is_awaited(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise MemoryError("all gone")

    monkeypatch.setattr(dataset_module, "read_file", fail)
    images = open_imagenet(data(root))
    with Loader(images, 2, 60) as loader, pytest.raises(MemoryError, match="all gone"):
        loader.load(wants(images), np.zeros((18, 64, 64, 3), dtype=np.uint8)).wait()


def test_a_closed_loader_has_no_threads_left(root: Path) -> None:
    images = open_imagenet(data(root))
    loader = Loader(images, 3, 60)
    loader.load(wants(images), np.zeros((18, 64, 64, 3), dtype=np.uint8))
    loader.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("images-")]


# -- statistics -------------------------------------------------------------------------------------------------------


def test_statistics_are_those_of_the_centre_crops(root: Path) -> None:
    images = open_imagenet(data(root))
    crops = []
    for i in range(18):
        image = images.pixels("train", i)
        crops.append(centre(72).crop(image, 64) / 255)
    colours = np.reshape(crops, (-1, 3))
    found = statistics(images)
    assert np.allclose(found.pixel_mean, np.mean(crops, axis=0), atol=1e-6)
    assert np.allclose(found.channel_mean, colours.mean(axis=0), atol=1e-6)
    assert list(found.eigenvalues) == sorted(found.eigenvalues, reverse=True)
    rebuilt = found.components @ np.diag(found.eigenvalues) @ found.components.T
    assert np.allclose(rebuilt, np.cov(colours.T, bias=True), atol=1e-5)
    assert np.allclose(found.components.T @ found.components, np.eye(3), atol=1e-5)
    along = (colours - colours.mean(axis=0)) @ found.components[:, 0]
    assert np.isclose(along.var(), found.eigenvalues[0], rtol=1e-4)


def test_who_waits_for_a_batch_is_called_now_and_then_and_may_end_the_wait(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, released = open_imagenet(data(root)), threading.Event()
    monkeypatch.setattr("resexp.data.imagenet.loader._POLL_S", 0.01)
    monkeypatch.setattr(type(images), "read", lambda *_: released.wait() and b"")
    calls = []

    def look() -> None:
        calls.append(None)
        if len(calls) == 3:
            raise InterruptedError

    loader = Loader(images, 1, 60)
    loader.waiting = look
    with pytest.raises(InterruptedError):
        loader.load([ImageRequest("train", 0, centre(72))], np.zeros((1, 64, 64, 3), np.uint8)).wait()
    assert len(calls) == 3
    released.set()
    loader.close()


def test_statistics_are_taken_once_for_each_crop_and_cache(root: Path, logged: list[str]) -> None:
    prepared(root, side=80)
    for settings in ({}, {}, {"val_resize": 64}, {"cache": {"side": 80}}, {"cache": {"side": 80}}):
        statistics(open_imagenet(data(root, **settings)))
    taken = [line for line in logged if "mean" in line]
    assert taken == 3 * [f"{root}: taking the mean of 18 images, once"]


def test_unreadable_images_are_left_out_of_the_mean(odd: Path) -> None:
    with_faults = statistics(open_imagenet(data(odd, max_unreadable=0.5)))
    for name in BROKEN:
        (odd / name).unlink()
    assert np.array_equal(with_faults.pixel_mean, statistics(open_imagenet(data(odd))).pixel_mean)


# -- the command line -------------------------------------------------------------------------------------------------


IMAGES = "data={source: imagenet, path: e, crop: 64, resize_range: [64, 96], val_resize: 64}"


def test_example_check_and_prepare(here: Cli) -> None:
    Path("s.yaml").write_text("name: s\n")
    made = here("data", "example", "e", "--classes", 2, "--images", 4, "--val", 4)
    assert (made.returncode, made.stdout) == (0, "e: 8 training and 8 validation images\n")
    flatten(Path("e"))
    add_odd(Path("e/train/n00000001"))
    checked = here("data", "check", "-c", "s.yaml", "--set", IMAGES)
    assert checked.returncode == 1
    first, *faults, last = checked.stdout.splitlines()
    assert first.startswith("e: imagenet-2, 2 classes, 13 training and 8 validation images, fingerprint ")
    assert [line.partition(": ")[0] for line in faults] == [f"e/{name}" for name in BROKEN]
    assert last == "2 images can't be read"
    prepared = here("data", "prepare", "-c", "s.yaml", "--set", IMAGES, "--set", "data.cache={side: 96}")
    assert (prepared.returncode, prepared.stdout.endswith("-96-jpeg95-v2: prepared\n")) == (0, True)


def test_commands_say_what_they_are_for(tmp_path: Path, capsys: pytest.CaptureFixture[str], logged: list[str]) -> None:
    Path("s.yaml").write_text("name: s\n")
    commands.example(tmp_path / "e", classes=2, images=2, val=2)
    with pytest.raises(UserError, match="e: exists, and is left as it is; name a new folder"):
        commands.example(tmp_path / "e")
    commands.check("s.yaml", settings=[IMAGES])
    assert capsys.readouterr().out.endswith("0 images can't be read\n")
    with pytest.raises(UserError, match=r"s.yaml: data\.cache says what to prepare, and it is not there"):
        commands.prepare("s.yaml", settings=[IMAGES])
    for _ in range(2):
        commands.prepare("s.yaml", settings=[IMAGES, "data.cache={side: 96}"])
    assert "there already" in logged[-1]
    with pytest.raises(
        UserError, match=r"quickstart: data\.source is shapes, and this is for imagenet and imagefolder"
    ):
        commands.prepare("quickstart")
    commands.check("quickstart")
    assert "shapes, 10 classes, 5,000 training and 1,000 test images" in capsys.readouterr().out


def test_the_drawn_example_can_be_made_again(tmp_path: Path, drawn: Path) -> None:
    make_example(tmp_path / "again", 3, 6, 4, 0)
    assert open_imagenet(data(tmp_path / "again")).fingerprint == open_imagenet(data(drawn)).fingerprint
    sizes = {simplejpeg.decode_jpeg_header(file.read_bytes())[:2] for file in drawn.rglob("*.JPEG")}
    assert len(sizes) > 20
    assert {width > height for height, width in sizes} == {True, False}
