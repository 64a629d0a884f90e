"""Image sets: shapes, folders and archives; fingerprints, caches and splits."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resexp.config import FolderData, ShapesData
from resexp.data import data_home, folder, open_dataset, shapes
from resexp.errors import UserError
from resexp.utils.files import locked

SHAPES = ShapesData(source="shapes", train_images=200, test_images=100, size=16)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes, six training and two test images each, 8x8, of random pixels."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "images"


def folder_data(path: Path, **settings: object) -> FolderData:
    return FolderData.model_validate({"source": "folder", "path": str(path), **settings})


# -- shapes -----------------------------------------------------------------------------------------------------------


def test_shapes_are_a_pure_function_of_their_configuration() -> None:
    first, again = shapes.generate(SHAPES), shapes.generate(SHAPES)
    assert first.fingerprint() == again.fingerprint()
    assert first.fingerprint() != shapes.generate(SHAPES.model_copy(update={"seed": 1})).fingerprint()
    assert shapes.generate(SHAPES).images["train"][0].shape == (16, 16, 3)


def test_shapes_have_ten_balanced_classes_and_no_image_twice() -> None:
    image_set = shapes.generate(SHAPES)
    assert np.bincount(image_set.labels["train"]).tolist() == [20] * 10
    everything = image_set.images["train"] + image_set.images["test"]
    assert len({image.tobytes() for image in everything}) == 300


DEFAULT, SMALL, LARGE = "b6c8c39bd88c8514", "aed25cf9b71b05e9", "e4073264b203fa49"
"""Fingerprints of the shapes: of the default set, of SHAPES, and of 100 and 100 images of 128 pixels a side."""


def test_the_pixels_of_the_shapes_are_pinned() -> None:
    """Whoever changes them raises shapes.VERSION, so that no cache is mistaken for them, and then these numbers."""
    large = ShapesData(source="shapes", size=128, train_images=100, test_images=100)
    found = [shapes.generate(config).fingerprint() for config in (ShapesData(source="shapes"), SHAPES, large)]
    assert (shapes.VERSION, *found) == (2, DEFAULT, SMALL, LARGE)


def test_the_shapes_are_the_same_on_a_cpu_without_vector_instructions() -> None:
    """NumPy's sine and cosine are other functions there. In float32 that changed pixels of the default set."""
    vector = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    code = (
        "from resexp.config import ShapesData; from resexp.data import shapes;"
        "print(shapes.generate(ShapesData(source='shapes')).fingerprint())"
    )
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(vector)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == DEFAULT


# -- folders and archives ---------------------------------------------------------------------------------------------


def archives_of(folder: Path) -> list[Path]:
    """The folder as .tar, .tar.gz (under a folder of its own, in reverse order) and .zip."""
    made = [folder.parent / name for name in ("a.tar", "a.tar.gz", "a.zip")]
    with tarfile.open(made[0], "w") as tar:
        for split in ("train", "test"):
            tar.add(folder / split, split)
    with tarfile.open(made[1], "w:gz") as tar:
        for file in sorted(folder.rglob("*.png"), reverse=True):
            tar.add(file, f"top/{file.relative_to(folder)}")
    with zipfile.ZipFile(made[2], "w") as archive:
        for file in folder.rglob("*.png"):
            archive.write(file, file.relative_to(folder))
    return made


def test_a_folder_and_every_archive_of_it_are_the_same_images(image_folder: Path) -> None:
    original = open_dataset(folder_data(image_folder))
    images, labels = original.train()
    assert original.classes == ["cat", "dog"]
    assert (images.shape, images.dtype, labels.tolist()) == ((12, 8, 8, 3), np.uint8, [0] * 6 + [1] * 6)
    assert np.array_equal(images[0], np.asarray(Image.open(image_folder / "train/cat/0.png")))
    for archive in archives_of(image_folder):
        other = open_dataset(folder_data(archive))
        assert other.fingerprint == original.fingerprint
        assert np.array_equal(other.train()[0], images)
        assert np.array_equal(other.test()[1], original.test()[1])


def test_the_fingerprint_is_of_pixels_and_classes_whatever_the_file_names(image_folder: Path) -> None:
    before = open_dataset(folder_data(image_folder)).fingerprint
    (image_folder / "train/cat/0.png").rename(image_folder / "train/cat/zzz.png")
    assert open_dataset(folder_data(image_folder)).fingerprint == before
    (image_folder / "train/cat/1.png").rename(image_folder / "train/dog/new.png")
    assert open_dataset(folder_data(image_folder)).fingerprint != before


def test_images_are_decoded_once_and_again_when_a_byte_changes(image_folder: Path, logged: list[str]) -> None:
    open_dataset(folder_data(image_folder))
    open_dataset(folder_data(image_folder))
    assert len(logged) == 1
    Image.new("RGB", (8, 8)).save(image_folder / "train/cat/0.png")
    data = open_dataset(folder_data(image_folder))
    assert len(logged) == 2
    assert not data.train()[0][0].any()


def test_parallel_runs_share_the_images_through_a_memory_map() -> None:
    images, _ = open_dataset(SHAPES).train()
    assert isinstance(images, np.memmap)


def test_grey_images_and_pictures_of_any_size_are_brought_to_one(image_folder: Path) -> None:
    Image.new("L", (30, 20), 255).save(image_folder / "train/cat/0.png")
    with pytest.raises(UserError, match=r"different sizes \(30x20, 8x8, \.\.\.\); set data.resize"):
        open_dataset(folder_data(image_folder))
    images, _ = open_dataset(folder_data(image_folder, resize=12)).train()
    assert images.shape == (12, 12, 12, 3)
    assert (images[0] == 255).all()


def test_resize_averages_and_does_not_skip_pixels(image_folder: Path) -> None:
    board = np.indices((32, 32)).sum(axis=0) % 2 * 255
    for file in image_folder.rglob("*.png"):
        Image.fromarray(np.stack([board] * 3, axis=-1).astype(np.uint8)).save(file)
    images, _ = open_dataset(folder_data(image_folder, resize=8)).train()
    assert abs(images[0].astype(int) - 127).max() < 20


def damage_truncated_image(folder: Path) -> Path:
    file = folder / "train/dog/3.png"
    file.write_bytes(file.read_bytes()[:60])
    return folder


def damage_truncated_archive(folder: Path) -> Path:
    archive = archives_of(folder)[1]
    archive.write_bytes(archive.read_bytes()[:-900])
    return archive


def damage_truncated_zip(folder: Path) -> Path:
    archive = archives_of(folder)[2]
    archive.write_bytes(archive.read_bytes()[:-900])
    return archive


def damage_tar_without_its_end(folder: Path) -> Path:
    """Cut at a member's boundary, where tarfile itself notices nothing."""
    archive = archives_of(folder)[0]
    with tarfile.open(archive) as tar:
        last = tar.getmembers()[-1]
    archive.write_bytes(archive.read_bytes()[: last.offset])
    return archive


def damage_image_twice(folder: Path) -> Path:
    path = archives_of(folder)[0]
    with tarfile.open(path, "a") as tar:
        tar.add(folder / "train/cat/0.png", "train/cat/0.png")
    return path


def damage_zip_escape(folder: Path) -> Path:
    with zipfile.ZipFile(folder.parent / "evil.zip", "w") as archive:
        archive.writestr("../../train/cat/a.png", b"")
    return folder.parent / "evil.zip"


def damage_gone(folder: Path) -> Path:
    return folder / "nowhere"


def damage_odd_size(folder: Path, side: int = 9) -> Path:
    for file in folder.rglob("*.png"):
        Image.new("RGB", (side, side)).save(file)
    return folder


def damage_large_odd_size(folder: Path) -> Path:
    return damage_odd_size(folder, 518)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damage_truncated_image, "1 image can't be read: train/dog/3.png"),
        (damage_truncated_archive, "truncated or damaged archive"),
        (damage_truncated_zip, "truncated or damaged archive"),
        (damage_tar_without_its_end, "truncated or damaged archive.*it has no end"),
        (damage_image_twice, "holds train/cat/0.png twice"),
        (damage_zip_escape, "would leave its folder"),
        (damage_gone, "no such folder or archive"),
        (damage_odd_size, "images are 9x9; .* set data.resize to 8"),
        (damage_large_odd_size, "images are 518x518; .* set data.resize to 512"),
    ],
)
def test_damaged_data_get_one_line_and_leave_no_cache(image_folder: Path, damage: object, says: str) -> None:
    path = damage(image_folder)  # type: ignore[operator]
    caches = set(data_home().glob("cache/*/meta.json"))
    with pytest.raises(UserError, match=says) as error:
        open_dataset(folder_data(path))
    assert len(error.value.args) == 1
    assert not list(data_home().glob("cache/.building-*"))
    if damage not in (damage_odd_size, damage_large_odd_size):
        assert set(data_home().glob("cache/*/meta.json")) == caches


def cut_images(cache: Path) -> None:
    file = cache / "train_images.npy"
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    "damage",
    [
        lambda cache: (cache / "meta.json").write_text("{"),
        lambda cache: (cache / "meta.json").write_text("{}"),
        lambda cache: (cache / "meta.json").unlink(),
        lambda cache: (cache / "test_labels.npy").unlink(),
        cut_images,
    ],
)
def test_a_damaged_cache_is_built_again(damage: object) -> None:
    whole = open_dataset(SHAPES)
    damage(whole.cache)  # type: ignore[operator]
    again = open_dataset(SHAPES)
    assert again.fingerprint == whole.fingerprint
    assert again.train()[0].shape == (200, 16, 16, 3)


def test_a_disk_too_small_for_the_cache_is_named_and_left_clean(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESEXP_DATA", str(small_disk))
    with pytest.raises(OSError, match=r"No space left on device: .*train_images.npy"):
        open_dataset(SHAPES.model_copy(update={"train_images": 5000}))
    assert not list(small_disk.glob("cache/.building-*"))
    assert len(open_dataset(SHAPES).train()[0]) == 200


def test_processes_that_open_new_data_at_once_decode_them_once(image_folder: Path) -> None:
    script = (
        "import sys\nfrom resexp.config import FolderData\nfrom resexp.data import open_dataset\n"
        "data = open_dataset(FolderData(source='folder', path=sys.argv[1]))\nprint(len(data.train()[0]))"
    )
    words = [sys.executable, "-c", script, str(image_folder)]
    started = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate()[0] for process in started] == ["12\n"] * 4
    assert len(list(data_home().glob("cache/folder-*"))) == 1


def test_what_a_killed_process_left_is_cleared_away() -> None:
    whole = open_dataset(SHAPES).cache
    left_over = whole.with_name(f".building-{whole.name}")
    whole.rename(left_over)
    (left_over / "meta.json").unlink()
    open_dataset(SHAPES)
    assert not left_over.exists()


def test_what_was_left_of_other_sets_goes_after_a_day_unless_it_is_being_built() -> None:
    """The images of a set may change before it is built again; then its name is another."""
    home = data_home() / "cache"
    folders = [home / f".building-{name}" for name in ("old", "new", "held")]
    for left_over in folders:
        (left_over / "part").mkdir(parents=True)
    for left_over in (folders[0], folders[2]):
        os.utime(left_over, (0, 0))
    with locked(home / ".held.lock", "the cache"):
        open_dataset(SHAPES)
    assert [left_over.exists() for left_over in folders] == [False, True, True]


def test_a_folder_is_not_cifar_10_for_being_called_so(image_folder: Path) -> None:
    image_folder.rename(image_folder.parent / "cifar10")
    assert open_dataset(folder_data(image_folder.parent / "cifar10")).name == "folder cifar10"


@pytest.mark.skipif(
    not os.environ.get("RESEXP_TEST_CIFAR10"), reason="RESEXP_TEST_CIFAR10 names no archive of CIFAR-10"
)
@pytest.mark.slow
def test_cifar_10_in_another_format_is_recognised_by_its_content() -> None:
    data = open_dataset(folder_data(Path(os.environ["RESEXP_TEST_CIFAR10"]).resolve()))
    assert (data.name, len(data.train()[0]), len(data.test()[0])) == ("cifar10", 50_000, 10_000)
    # The published mean of CIFAR-10's training images, by channel.
    assert (data.train()[0].mean(axis=(0, 1, 2)) / 255).tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)


# -- splits and means -------------------------------------------------------------------------------------------------


def test_full_trains_on_everything_and_holdout_keeps_a_tenth() -> None:
    full, held = open_dataset(SHAPES), open_dataset(SHAPES.model_copy(update={"split": "holdout"}))
    assert (len(full.train_index), len(full.val_index)) == (200, 0)
    assert (len(held.train_index), len(held.val_index)) == (180, 20)
    assert sorted([*held.train_index, *held.val_index]) == list(range(200))


def test_the_split_depends_on_its_own_seed_alone() -> None:
    a, b, c = (
        open_dataset(SHAPES.model_copy(update={"split": "holdout", "split_seed": s})).val_index.tolist()
        for s in (0, 0, 1)
    )
    assert a == b != c


def test_all_cores_decode_what_one_decodes(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "cores", lambda: 1)
    one = folder.decode(image_folder)
    monkeypatch.setattr(folder, "cores", lambda: 3)
    all_cores = folder.decode(image_folder)
    assert all_cores.fingerprint() == one.fingerprint()
    assert all(np.array_equal(a, b) for a, b in zip(one.images["train"], all_cores.images["train"], strict=True))
    last = sorted(image_folder.glob("test/*/*"))[-1]
    last.write_bytes(b"no image")
    with pytest.raises(UserError, match=rf"{last.name} \(not an image\); restore it, or move it out of"):
        folder.decode(image_folder)


def test_a_split_without_room_is_refused(image_folder: Path) -> None:
    with pytest.raises(UserError, match="10 % of 12 is 1, less than one for each of 2 classes; use split: full"):
        open_dataset(folder_data(image_folder, split="holdout"))
