"""What the names of files and folders say: the images of a set with their splits and classes, and what is left out."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from resexp.errors import UserError, sanitize
from resexp.utils.text import counted, few

SUFFIXES = frozenset({
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff",
    ".webp",
})  # fmt: skip
_PACKED = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"})
READ = ", ".join(sorted(SUFFIXES))
TRAIN = ("train", "training", "segtrain")
TEST = ("test", "testing", "segtest", "val", "valid", "validation", "eval", "dev")
"""What the folders of the splits are called, as `word` has it; where there are several, the first is taken."""


OFFICIAL = {"cifar10": {"data_batch_1"}, "cifar100": {"train", "test", "meta"}, "svhn": {"train_32x32.mat"}}
"""The sources that read other files than images, and files by which they are recognised."""
TABLE = "val_annotations.txt"
"""Tiny ImageNet's labels of the images in val/."""

Entry = tuple[str, str, str]
"""(split, class, file name); the file name has slashes where the class has folders inside."""
Parts = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """What the files of a set stand for."""

    entries: dict[str, Entry]
    """The images, by their files' names in the set."""
    table: str | None = None
    """The file that says labels, where there is one."""
    left_out: dict[str, int] = field(default_factory=dict)
    """How many files are left out, by the reason: their suffix, or where they lie."""
    remarks: list[str] = field(default_factory=list)
    """A line for everything that a person might not expect."""


def decoded(where: Path, content: bytes) -> str:
    """The text in a file. Raises UserError if it holds something else."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{where}: damaged, it is not text; unpack it again") from None


def read_table(where: Path, content: bytes) -> dict[str, str]:
    """The class of each image, of lines such as ``val_0.JPEG<tab>n03444034<tab>0<tab>32<tab>44<tab>62``.

    Raises UserError if a line is another.
    """
    rows = [line.split("\t") for line in decoded(where, content).splitlines() if line.strip()]
    for number, row in enumerate(rows, 1):
        if len(row) < 2 or not row[0] or not row[1].strip():
            raise UserError(f"{where}: line {number}: expected a file's name, a tab, and a class; unpack it again")
    return {row[0]: row[1].strip() for row in rows}


def find_layout(path: Path, names: Iterable[str], read: Callable[[str], bytes]) -> Layout:
    """What the files `names` of the set at `path` stand for; names of folders end with a slash. `read` reads a file.

    Folders may lie above those of the splits, and inside those of the classes. Raises UserError if it is not clear
    what is meant.
    """
    return _Search(path, names, read).layout()


class _Search:
    """Finds splits, classes and images in the names of a set."""

    def __init__(self, path: Path, names: Iterable[str], read: Callable[[str], bytes]) -> None:
        self.path, self.read = path, read
        self.remarks: list[str] = []
        self.files: list[tuple[Parts, str]] = []
        self.folders: set[Parts] = set()
        for name in names:
            parts = tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))
            if name.endswith(("/", "\\")):
                self.folders.add(parts)
            elif parts:
                self.files.append((parts, name))
            else:
                raise UserError(f"{path}: a file called {name!r}; give it a name, or leave it out")
        # The archives of intel-image-classification unpack to train/train/<class>/.
        splits = self._splits().items()
        for at in sorted((*root, name) for root, split in splits for name in split if split[name] == {name}):
            self.files = [(_without(at, parts), name) for parts, name in self.files]
            self.folders = {_without(at, parts) for parts in self.folders}
            self.remarks.append(f"{'/'.join(at)}/{at[-1]}/ is read as {'/'.join(at)}/")
        self.splits = self._splits()

    def _image_folders(self) -> set[Parts]:
        return {parts[:-1] for parts, _ in self.files if is_image(parts[-1]) and not is_hidden(*parts)}

    def _splits(self) -> dict[Parts, dict[str, set[str]]]:
        """The folders that are called as splits are and hold images, by the folder that they lie in: for each the names
        of the folders inside it that hold images, and "" where images lie in it."""
        found: dict[Parts, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        for folder in self._image_folders():
            for depth, part in enumerate(folder):
                if is_train(part) or is_test(part):
                    found[folder[:depth]][part].add(folder[depth + 1] if len(folder) > depth + 1 else "")
        return found

    def layout(self) -> Layout:
        root = self._root()
        name = self._named(root, TRAIN)[0]
        test_name, table = self._test_folder(root, name)
        train, test = (*root, name), (*root, test_name)
        labels = read_table(self.path / table, self.read(table)) if table else {}
        entries, left_out = self._sorted(train, test, labels, table)
        line = left_out_line(left_out)
        self._check(entries, "/".join(train), "/".join(test), f"; {line}" if line else "")
        self._remark_on_folders(entries, [train] if table else [train, test])
        if missing := labels.keys() - {file for split, _, file in entries.values() if split == "test"}:
            raise UserError(
                f"{self.path}/{table}: labels {len(missing):,} images that are not there, such as {min(missing)}; "
                f"restore them"
            )
        counts = {reason: len(names) for reason, names in left_out.items()}
        return Layout(entries, table, counts, [sanitize(remark) for remark in (*self.remarks, line) if remark])

    def _root(self) -> Parts:
        """The folder that holds those of the splits: the uppermost that holds both."""
        both = [root for root, split in self.splits.items() if any(map(is_train, split)) and any(map(is_test, split))]
        if not both:
            has_train = any(is_train(name) for split in self.splits.values() for name in split)
            raise self._not_laid_out("test" if has_train else "train")
        first, *others = sorted(root for root in both if len(root) == min(map(len, both)))
        if others:
            if not any(self._classes(root, name) for root in (first, *others) for name in self._named(root, TRAIN)):
                train = "/".join((*first, self._named(first, TRAIN)[0]))
                raise UserError(
                    f"{self.path}: train and test images lie inside the classes, such as in {train}/; sort them into "
                    f"train/<class>/ and test/<class>/"
                )
            sets = few(["/".join(root) for root in (first, *others)])
            raise UserError(f"{self.path}: holds several sets of images, {sets}; name the folder of one in data.path")
        return first

    def _not_laid_out(self, missing: str) -> UserError:
        folders = sorted("/".join(folder) or "no folder" for folder in self._image_folders())
        names = [parts[-1] for parts, _ in self.files]
        if official := next((source for source, known in OFFICIAL.items() if known <= set(names)), None):
            found = f"it holds files of {official}; set data.source to {official}"
        elif folders:
            remedy = "sort them into train/<class>/ and test/<class>/"
            if is_train(self.path.name) or is_test(self.path.name):
                remedy = "name the folder above in data.path"
            found = f"its images lie in {few(folders)}; {remedy}"
        elif names:
            found = f"it holds {tally(names)}{packed(names) or f'; what is read is {READ}'}"
        else:
            found = "it is empty"
        return UserError(
            f"{self.path}: no images in {missing}/<class>/; expected train/<class>/* and test/<class>/*, but {found}"
        )

    def _named(self, root: Parts, known: tuple[str, ...]) -> list[str]:
        """The folders in `root` that have one of the `known` names and hold images, in the order of `known`."""
        alike = [name for name in self.splits[root] if word(name) in known]
        return sorted(alike, key=lambda name: rank(name, known))

    def _classes(self, root: Parts, split: str) -> set[str]:
        """The class folders of a split that hold images, in one Unicode form."""
        return set(map(nfc, self.splits[root][split] - {""}))

    def _test_folder(self, root: Parts, train: str) -> tuple[str, str | None]:
        """The folder of the test images, and the file that says their labels where they are not sorted."""
        tests, known = self._named(root, TEST), self._classes(root, train)
        files, table = dict(self.files), None
        test = next((name for name in tests if known & self._classes(root, name)), None)
        if test is None:
            test = next((name for name in tests if (*root, name, TABLE) in files), tests[0])
            table = files.get((*root, test, TABLE))
        if test.casefold() != "test":
            why = f", for {tests[0]}/ has none of the classes of {train}/" if tests[0] != test else ""
            self.remarks.append(f"{'/'.join((*root, test))}/ is read as the test images{why}")
        return test, table

    def _sorted(
        self, train: Parts, test: Parts, labels: dict[str, str], table: str | None
    ) -> tuple[dict[str, Entry], dict[str, list[str]]]:
        """The images, by their files' names, and the names of the files that are left out, by the reason."""
        found: list[tuple[str, Entry]] = []
        left_out: dict[str, list[str]] = defaultdict(list)
        for parts, name in self.files:
            entry = _entry(parts, train, test, labels)
            if not isinstance(entry, str):
                found.append((name, entry))
            elif name != table:
                left_out[entry].append(name)
        in_train, in_test = _classes_of(entry for _, entry in found)
        alike = sorted(name for name, count in Counter(map(nfc, in_train | in_test)).items() if count > 1)
        if alike and in_train != in_test:
            found = [(name, (split, nfc(of), file)) for name, (split, of, file) in found]
            folders = f"{train[-1]}/ and {test[-1]}/"
            self.remarks.append(f"{few(alike)}: spelt in two Unicode forms in {folders}, and taken as one class")
        if twice := [entry for entry, count in Counter(entry for _, entry in found).items() if count > 1]:
            raise UserError(f"{self.path}: holds {'/'.join(twice[0])} twice; keep one of them")
        return dict(found), left_out

    def _check(self, entries: dict[str, Entry], train: str, test: str, but: str) -> None:
        """Raise UserError where the splits have not the same classes, two at least. `but` ends its line."""
        in_train, in_test = _classes_of(entries.values())
        for split, classes in ((train, in_train), (test, in_test)):
            if not classes:
                raise UserError(f"{self.path}: no images in {split}/<class>/; sort them into folders of classes{but}")
        check_classes(self.path, in_train, in_test, f"{train}/", f"{test}/", but)
        if len(in_train) < 2:
            inner = sorted({file.split("/")[0] for _, _, file in entries.values() if "/" in file})
            up = f"; if its folders, {few(inner)}, are the classes, move them up" if inner else ""
            raise UserError(f"{self.path}: only one class, {min(in_train)}; a classifier needs at least two{up}{but}")

    def _remark_on_folders(self, entries: dict[str, Entry], splits: list[Parts]) -> None:
        """Name the class folders without images, and the folders inside those of classes."""
        depth = len(splits[0])
        folders = {nfc(p[depth]) for p in self.folders if len(p) > depth and p[:depth] in splits and not is_hidden(*p)}
        if empty := sorted(folders - {nfc(of) for _, of, _ in entries.values()}):
            classes = counted(len(empty), "class folder")
            self.remarks.append(f"{classes} without images left out: {few(empty)}")
        if inside := ["/".join(entry).rpartition("/")[0] for entry in entries.values() if "/" in entry[2]]:
            lie = counted(len(inside), "image lies", "images lie")
            where = few(sorted(set(inside)))
            self.remarks.append(f"{lie} in folders inside classes, which are read too: {where}")


def _without(at: Parts, parts: Parts) -> Parts:
    """The parts of a name without the second folder of ``train/train/``, where `at` is the first."""
    return (*at, *parts[len(at) + 1 :]) if parts[: len(at) + 1] == (*at, at[-1]) else parts


def _entry(parts: Parts, train: Parts, test: Parts, labels: dict[str, str]) -> Entry | str:
    """What a file stands for, or why it is left out."""
    depth, name = len(train), parts[-1]
    split = "train" if parts[:depth] == train else "test" if parts[:depth] == test else None
    if is_hidden(*parts):
        return "hidden"
    if split is None:
        inside = parts[depth - 1 :] if parts[: depth - 1] == train[:-1] else parts
        return f"in {sanitize(inside[0])}/" if len(inside) > 1 else "next to the splits"
    if not is_image(name):
        return suffix(name)
    if split == "test" and labels:
        return (split, labels[name], name) if name in labels else "without a label"
    if len(parts) < depth + 2:
        return "in no class folder"
    return split, parts[depth], "/".join(parts[depth + 1 :])


def _classes_of(entries: Iterable[Entry]) -> tuple[set[str], set[str]]:
    """The classes of the training images, and those of the test images."""
    pairs = {(split, name) for split, name, _ in entries}
    return {name for split, name in pairs if split == "train"}, {name for split, name in pairs if split == "test"}


def nfc(name: str) -> str:
    """The name in Unicode's composed form: two file systems may spell it in two."""
    return unicodedata.normalize("NFC", name)


def check_classes(
    where: Path, one: Collection[str], other: Collection[str], one_in: str, other_in: str, but: str = ""
) -> None:
    """Raise UserError where a class has a name that can't be shown, or is in one place, such as ``train/``, alone.

    `but` ends the line that says which differ.
    """
    if hidden := sorted(name for name in {*one, *other} if sanitize(name) != name):
        raise UserError(f"{where}: the name of the class {hidden[0]!r} can't be shown; rename it")
    differ = []
    for odd, there, not_there in ((set(one) - set(other), one_in, other_in), (set(other) - set(one), other_in, one_in)):
        if odd:
            are = "class {} is" if len(odd) == 1 else "classes {} are"
            differ.append(f"{are.format(few(sorted(odd)))} in {there} but not in {not_there}")
    if differ:
        raise UserError(f"{where}: {', and '.join(differ)}; both need the same classes{but}")


def is_image(name: str) -> bool:
    """Whether the file name has an image suffix."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def is_train(name: str) -> bool:
    """Whether the name says that a folder holds training images."""
    return word(name) in TRAIN


def is_test(name: str) -> bool:
    """Whether the name says that a folder holds test or validation images."""
    return word(name) in TEST


def rank(name: str, known: tuple[str, ...]) -> tuple[int, bool, str]:
    """Sorts folders that have one of the `known` names; the first is taken."""
    return known.index(word(name)), name != word(name), name


def word(name: str) -> str:
    """A folder's name without what people add to it: ``Training Set`` becomes ``training``."""
    return re.sub(r"(set|data|images)$", "", re.sub(r"[-_ ]", "", name.casefold()))


def is_hidden(*parts: str) -> bool:
    """Whether a file is one that systems leave behind: ``.DS_Store``, or in ``__MACOSX/`` or Synology's ``@eaDir/``."""
    return any(part.startswith(".") or part in ("__MACOSX", "@eaDir") for part in parts)


def suffix(name: str) -> str:
    """The suffix in lower case, for messages."""
    return sanitize(PurePosixPath(name).suffix.lower()) or "without suffix"


def tally(names: Iterable[str]) -> str:
    """The three most frequent suffixes, such as ``12 .heic, 2 .txt``."""
    return ", ".join(f"{count:,} {of}" for of, count in Counter(map(suffix, names)).most_common(3))


def packed(names: Iterable[str]) -> str:
    """What to do, as the end of a line, where some of the files are archives; else empty."""
    return "; unpack what is packed" if any(suffix(name) in _PACKED for name in names) else ""


def left_out_line(names: dict[str, list[str]]) -> str:
    """Such as ``14 files left out: 12 .heic, 2 .txt (train/cat/1.heic, ...)``, for names by the reason; or nothing."""
    groups = sorted(names.items(), key=lambda item: (-len(item[1]), item[0]))
    each = ", ".join(f"{len(group):,} {reason}" for reason, group in groups)
    examples = [group[0] for _, group in groups] + [name for _, group in groups for name in group[1:]]
    return f"{counted(len(examples), 'file')} left out: {each} ({sanitize(few(examples))})" if names else ""
