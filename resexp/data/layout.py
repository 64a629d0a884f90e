"""The images in a folder or archive with their splits and classes, and the files that are left out."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from resexp.data.naming import (
    READ,
    TEST,
    TRAIN,
    few,
    is_hidden,
    is_image,
    is_test,
    is_train,
    left_out_line,
    packed,
    suffix,
    tally,
    word,
)
from resexp.errors import UserError, sanitize

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


def read_table(where: str, text: str) -> dict[str, str]:
    """The class of each image, of lines such as ``val_0.JPEG<tab>n03444034<tab>0<tab>32<tab>44<tab>62``.

    Raises UserError if a line is another.
    """
    rows = [line.split("\t") for line in text.splitlines() if line.strip()]
    if bad := [number for number, row in enumerate(rows, 1) if len(row) < 2 or not row[0] or not row[1].strip()]:
        raise UserError(f"{where}: line {bad[0]}: expected a file's name, a tab, and a class; unpack it again")
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
        self.files: list[tuple[Parts, str]] = []
        self.folders: set[Parts] = set()
        for name in names:
            parts = _parts(name)
            if not name.endswith(("/", "\\")):
                if not parts:
                    raise UserError(f"{path}: a file called {name!r}; give it a name, or leave it out")
                self.files.append((parts, name))
            elif not is_hidden(parts):
                self.folders.add(parts)
        self.remarks: list[str] = []
        self.images = self._images()
        if doubled := self._doubled():
            self.files = [(_without(doubled, parts), name) for parts, name in self.files]
            self.folders = {_without(doubled, parts) for parts in self.folders}
            self.images = self._images()
            self.remarks += [f"{'/'.join(at)}/{at[-1]}/ is read as {'/'.join(at)}/" for at in sorted(doubled)]

    def _images(self) -> list[Parts]:
        return [parts for parts, _ in self.files if is_image(parts[-1]) and not is_hidden(parts)]

    def _doubled(self) -> set[Parts]:
        """The folders of splits whose images all lie in a folder of the same name: ``train/train/<class>/``."""
        inside: dict[Parts, set[str]] = defaultdict(set)
        for parts in self.images:
            for depth, part in enumerate(parts[:-1], 1):
                if is_train(part) or is_test(part):
                    inside[parts[:depth]].add(parts[depth] if len(parts) > depth + 1 else "")
        return {at for at, names in inside.items() if names == {at[-1]}}

    def layout(self) -> Layout:
        root = self._root()
        train = self._named(root, TRAIN)[0]
        tests = self._named(root, TEST)
        known = self._classes((*root, train))
        labels: dict[str, str] = {}
        table = None
        test = next((name for name in tests if known & self._classes((*root, name))), None)
        if test is None:
            tables = {parts: name for parts, name in self.files if parts[-1] == TABLE}
            test = next((name for name in tests if (*root, name, TABLE) in tables), tests[0])
            if table := tables.get((*root, test, TABLE)):
                labels = read_table(f"{self.path}/{table}", self._text(table))
        if test.casefold() != "test":
            why = f", for {tests[0]}/ has none of the classes of {train}/" if tests[0] != test else ""
            self.remarks.append(f"{'/'.join([*root, test])}/ is read as the test images{why}")
        entries, left_out, names = self._sorted((*root, train), (*root, test), labels, table)
        entries = self._one_spelling(entries, train, test)
        self._check(entries, left_out, names, (*root, train), (*root, test))
        self._remark_on_folders(entries, [(*root, train)] if table else [(*root, train), (*root, test)])
        if labels and (missing := labels.keys() - {file for split, _, file in entries.values() if split == "test"}):
            raise UserError(
                f"{self.path}/{table}: labels {len(missing):,} images that are not there, such as {min(missing)}; "
                f"restore them"
            )
        if left_out:
            self.remarks.append(left_out_line(left_out, names))
        return Layout(entries, table, left_out, self.remarks)

    def _text(self, name: str) -> str:
        try:
            return self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise UserError(f"{self.path}/{name}: damaged, it is not text; unpack it again") from None

    def _root(self) -> Parts:
        """The folder that holds those of the splits: the uppermost that holds both."""
        splits: dict[Parts, set[str]] = defaultdict(set)
        for parts in self.images:
            for depth, part in enumerate(parts[:-1]):
                if is_train(part) or is_test(part):
                    splits[parts[:depth]].add(TRAIN[0] if is_train(part) else TEST[0])
        both = [root for root, kinds in splits.items() if len(kinds) == 2]
        if not both:
            has_train = any(TRAIN[0] in kinds for kinds in splits.values())
            raise self._not_laid_out(TEST[0] if has_train else TRAIN[0])
        found = sorted(root for root in both if len(root) == min(map(len, both)))
        if len(found) > 1:
            if not any(self._classes((*root, name)) for root in found for name in self._named(root, TRAIN)):
                raise UserError(
                    f"{self.path}: train and test images lie inside the classes, such as in "
                    f"{'/'.join((*found[0], self._named(found[0], TRAIN)[0]))}/; sort them into train/<class>/ and "
                    f"test/<class>/"
                )
            sets = few(["/".join(root) for root in found])
            raise UserError(f"{self.path}: holds several sets of images, {sets}; name the folder of one in data.path")
        return found[0]

    def _not_laid_out(self, missing: str) -> UserError:
        folders = sorted({"/".join(parts[:-1]) or "no folder" for parts in self.images})
        names = {parts[-1] for parts, _ in self.files}
        if official := next((source for source, known in OFFICIAL.items() if known <= names), None):
            found = f"it holds files of {official}; set data.source to {official}"
        elif folders:
            remedy = "sort them into train/<class>/ and test/<class>/"
            if is_train(self.path.name) or is_test(self.path.name):
                remedy = "name the folder above in data.path"
            found = f"its images lie in {few(folders)}; {remedy}"
        elif self.files:
            others = [parts[-1] for parts, _ in self.files]
            found = f"it holds {tally(others)}"
            found += packed(others) or f"; what is read is {READ}"
        else:
            found = "it is empty"
        return UserError(
            f"{self.path}: no images in {missing}/<class>/; expected train/<class>/* and test/<class>/*, but {found}"
        )

    def _named(self, root: Parts, known: tuple[str, ...]) -> list[str]:
        """The folders in `root` that are called so, and hold images: the first as their names are listed."""
        depth = len(root)
        found = {p[depth] for p in self.images if len(p) > depth + 1 and p[:depth] == root}
        alike = [name for name in found if word(name) in known]
        return sorted(alike, key=lambda name: (known.index(word(name)), name != word(name), name))

    def _classes(self, split: Parts) -> set[str]:
        """The class folders of a split that hold images, in one Unicode form."""
        return {_nfc(p[len(split)]) for p in self.images if len(p) > len(split) + 1 and p[: len(split)] == split}

    def _sorted(
        self, train: Parts, test: Parts, labels: dict[str, str], table: str | None
    ) -> tuple[dict[str, Entry], dict[str, int], list[str]]:
        """The images; how many files are left out, by the reason; their names, one of each reason first."""
        entries: dict[str, Entry] = {}
        left_out: dict[str, list[str]] = defaultdict(list)
        seen: set[Entry] = set()
        depth = len(train)
        for parts, name in self.files:
            split = next((kind for kind, at in (("train", train), ("test", test)) if parts[:depth] == at), None)
            if is_hidden(parts):
                left_out["hidden"].append(name)
            elif split is None:
                left_out[_elsewhere(parts, train)].append(name)
            elif name == table:
                continue
            elif not is_image(parts[-1]):
                left_out[suffix(parts[-1])].append(name)
            elif split == "test" and labels:
                if parts[-1] in labels:
                    entries[name] = (split, labels[parts[-1]], parts[-1])
                else:
                    left_out["without a label"].append(name)
            elif len(parts) < depth + 2:
                left_out["in no class folder"].append(name)
            else:
                entries[name] = (split, parts[depth], "/".join(parts[depth + 1 :]))
            if name in entries:
                if entries[name] in seen:
                    raise self._twice(entries[name])
                seen.add(entries[name])
        rest = [name for of in left_out.values() for name in of[1:]]
        firsts = [of[0] for of in sorted(left_out.values(), key=len, reverse=True)]
        return entries, {reason: len(of) for reason, of in left_out.items()}, list(map(sanitize, firsts + rest))

    def _twice(self, entry: Entry) -> UserError:
        return UserError(f"{self.path}: holds {'/'.join(entry)} twice; keep one of them")

    def _one_spelling(self, entries: dict[str, Entry], train: str, test: str) -> dict[str, Entry]:
        """Take class names of two Unicode forms as one, where the splits differ otherwise."""
        classes = {split: {entry[1] for entry in entries.values() if entry[0] == split} for split in ("train", "test")}
        if classes["train"] == classes["test"]:
            return entries
        both = classes["train"] | classes["test"]
        alike = sorted(name for name, count in Counter(map(_nfc, both)).items() if count > 1)
        if not alike:
            return entries
        one = {name: (split, _nfc(of), file) for name, (split, of, file) in entries.items()}
        if twice := [entry for entry, count in Counter(one.values()).items() if count > 1]:
            raise self._twice(twice[0])
        self.remarks.append(f"{few(alike)}: spelt in two Unicode forms in {train}/ and {test}/, and taken as one class")
        return one

    def _check(
        self, entries: dict[str, Entry], left_out: dict[str, int], names: list[str], train: Parts, test: Parts
    ) -> None:
        """Raise UserError where the splits have not the same classes, two at least."""
        classes = {
            "/".join(at): {entry[1] for entry in entries.values() if entry[0] == split}
            for split, at in (("train", train), ("test", test))
        }
        for name in sorted(set.union(*classes.values())):
            if sanitize(name) != name:
                raise UserError(f"{self.path}: the name of the class {name!r} can't be shown; rename it")
        but = f"; {left_out_line(left_out, names)}" if left_out else ""
        for at, found in classes.items():
            if not found:
                raise UserError(f"{self.path}: no images in {at}/<class>/; sort them into folders of classes{but}")
        (at_train, in_train), (at_test, in_test) = classes.items()
        differ = [
            f"class{'es' * (len(odd) > 1)} {few(sorted(odd))} {'are' if len(odd) > 1 else 'is'} in {where}/ but not in "
            f"{missing}/"
            for where, missing, odd in (
                (at_train, at_test, in_train - in_test),
                (at_test, at_train, in_test - in_train),
            )
            if odd
        ]
        if differ:
            raise UserError(f"{self.path}: {', and '.join(differ)}; both need the same classes{but}")
        if len(in_train) < 2:
            inner = sorted({entry[2].split("/")[0] for entry in entries.values() if "/" in entry[2]})
            up = f"; if its folders, {few(inner)}, are the classes, move them up" if inner else ""
            raise UserError(f"{self.path}: only one class, {min(in_train)}; a classifier needs at least two{up}{but}")

    def _remark_on_folders(self, entries: dict[str, Entry], splits: list[Parts]) -> None:
        """Name the class folders without images, and the folders inside those of classes."""
        depth = len(splits[0])
        folders = {_nfc(p[depth]) for p in self.folders if len(p) > depth and p[:depth] in splits}
        if empty := sorted(folders - {_nfc(entry[1]) for entry in entries.values()}):
            classes = f"{len(empty):,} class folder{'s' * (len(empty) > 1)}"
            self.remarks.append(f"{classes} without images left out: {sanitize(few(empty))}")
        inside = [entry for entry in entries.values() if "/" in entry[2]]
        if inside:
            where = sorted({"/".join(entry).rpartition("/")[0] for entry in inside})
            lie = f"{len(inside):,} image{'s lie' if len(inside) > 1 else ' lies'}"
            verb = "are" if len(inside) > 1 else "is"
            self.remarks.append(f"{lie} in folders inside classes, and {verb} read: {sanitize(few(where))}")


def _parts(name: str) -> Parts:
    """The parts of a name; Windows separates them by backslashes."""
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _without(doubled: set[Parts], parts: Parts) -> Parts:
    """The parts of a name without the second of two folders that are called alike; see `_doubled`."""
    at = next((at for at in doubled if parts[: len(at) + 1] == (*at, at[-1])), None)
    return parts if at is None else (*at, *parts[len(at) + 1 :])


def _elsewhere(parts: Parts, train: Parts) -> str:
    """Where a file lies that is in neither split."""
    inside = parts[len(train) - 1 :] if parts[: len(train) - 1] == train[:-1] else parts
    return f"in {sanitize(inside[0])}/" if len(inside) > 1 else "next to the splits"


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)
