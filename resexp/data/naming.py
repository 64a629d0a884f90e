"""What the names of files and folders say: which are images, training images, test images, archives or hidden."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
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
    by_number = sorted(names.items(), key=lambda item: (-len(item[1]), item[0]))
    each = ", ".join(f"{len(of):,} {reason}" for reason, of in by_number)
    examples = [of[0] for _, of in by_number] + [name for _, of in by_number for name in of[1:]]
    return f"{counted(len(examples), 'file')} left out: {each} ({sanitize(few(examples))})" if names else ""
