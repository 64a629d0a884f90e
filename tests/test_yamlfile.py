"""YAML with line numbers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resexp.config import yaml_file
from resexp.config.yaml_file import Document
from resexp.errors import UserError


@pytest.mark.parametrize("text", ["1e-1", "0.1", ".1", "1.0E-1", "+1e-1"])
def test_every_usual_spelling_of_a_tenth_is_a_number(text: str) -> None:
    assert yaml_file.parse(f"lr: {text}", "x").data == {"lr": 0.1}


def test_text_that_only_looks_like_a_number_stays_text() -> None:
    assert yaml_file.parse("a: 1e\nb: '1e-1'\nc: v1.2.3", "x").data == {"a": "1e", "b": "1e-1", "c": "v1.2.3"}


def test_every_value_knows_its_line() -> None:
    document = yaml_file.parse("a: 1\nb:\n  c: [1,\n    2]\n", "f.yaml")
    assert document.place(("b", "c")) == "f.yaml:3"
    assert document.place(("b", "c", 1)) == "f.yaml:4"
    assert document.place(("b", "missing")) == "f.yaml:2"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\na: 2", "f.yaml:2: a: duplicate key, first set on line 1; keep one"),
        ("a: {b: 1,\n b: 2}", "f.yaml:2: a.b: duplicate key, first set on line 1; keep one"),
        (
            "a: [1, 2",
            "f.yaml:1: YAML syntax error: did not find expected ',' or ']'",
        ),
        ("a: 1\n\tb: 2", "f.yaml:2: YAML syntax error: found a tab character that violates indentation '\\t', while"),
        ("- a", "f.yaml:1: expected a mapping of keys to values"),
        (
            'a: "\\uD83D"',
            r"f.yaml:1: YAML syntax error: found invalid Unicode character escape code 'D'; write \U and the eight",
        ),
        ("1: a", "f.yaml:1: keys are words, got '1'"),
        ("a: !!bool perhaps", "f.yaml:1: a: can't read 'perhaps'"),
        ("a: !!bool yes", "f.yaml:1: a: can't read 'yes' as bool"),
        ("a: &a {<<: *a}", "f.yaml:1: a: *a stands for nothing that ends before it"),
        ("a: !!int ''", "f.yaml:1: a: can't read ''"),
        ("a: !!timestamp x", "f.yaml:1: a: can't read 'x'"),
        ("? [a]\n: b", "f.yaml:1: keys are words"),
        ("a: !!python/object:os.system x", None),
        ("a: 1\nb: \x07", "f.yaml:2: YAML allows no U+0007; remove it, or save the file as UTF-8"),
        ("a: 'b\nc: 1", "f.yaml:2: YAML syntax error: found unexpected end of stream, while scanning a quoted scalar"),
        ("a: b: c", "f.yaml:1: YAML syntax error: mapping values are not allowed in this context; fix the indentation"),
        ("a: @b", "f.yaml:1: YAML syntax error: found character that cannot start any token '@'; put the text"),
        ("a: {b:1}", "f.yaml:1: 'b:1' has no value: commas in braces end values, and a colon needs a space"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(text: str, line: str | None) -> None:
    with pytest.raises(UserError) as error:
        yaml_file.parse(text, "f.yaml")
    assert len(error.value.args) == 1
    assert "\n" not in str(error.value)
    if line:
        assert str(error.value).startswith(line)


def test_aliases_cannot_multiply_without_end() -> None:
    bomb = "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
    for previous, name in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{name}: &{name} [{','.join([f'*{previous}'] * 10)}]\n"
    with pytest.raises(UserError, match="too large for a study"):
        yaml_file.parse(bomb, "bomb.yaml")


def test_an_alias_of_itself_is_refused() -> None:
    with pytest.raises(UserError, match=r"loop.yaml:1: a\[0\]: \*a stands for nothing"):
        yaml_file.parse("a: &a [*a]", "loop.yaml")


@pytest.mark.parametrize("size", [4000, 1_000_000])
@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_nesting_without_end_is_refused(opening: str, size: int) -> None:
    """PyYAML's composer in C has a stack to overflow, so it is not used."""
    with pytest.raises(UserError):
        yaml_file.parse((opening * size)[:size], "deep.yaml")


def test_extends_merges_key_by_key_and_replaces_lists(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("train: {lr: 0.1, steps: 9}\nseeds: [1, 2]\ngrid: {a: [1]}\n")
    (tmp_path / "top.yaml").write_text("extends: base.yaml\ntrain:\n  lr: 0.5\nseeds: [3]\ngrid: {b: [2]}\n")
    document = yaml_file.read(tmp_path / "top.yaml")
    assert document.data == {"train": {"lr": 0.5, "steps": 9}, "seeds": [3], "grid": {"b": [2]}}
    assert document.place(("train", "steps")) == f"{tmp_path / 'base.yaml'}:1"
    assert document.place(("train", "lr")) == f"{tmp_path / 'top.yaml'}:3"


def test_a_section_that_is_a_word_is_kept_as_the_mistake_that_it_is(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("model: plain\ntrain:\n")
    (tmp_path / "top.yaml").write_text("extends: base.yaml\nmodel: {depth: 20}\ntrain: {lr: 0.5}\n")
    document = yaml_file.read(tmp_path / "top.yaml")
    assert document.data == {"model": "plain", "train": {"lr": 0.5}}
    assert document.place(("model",)) == f"{tmp_path / 'base.yaml'}:1"
    assert yaml_file.overridden(Document({"seeds": [0]}), ["seeds={a: 1}"]).data == {"seeds": {"a": 1}}


def test_what_is_replaced_loses_its_places() -> None:
    base = yaml_file.parse("a: 1\ntrain:\n  lr: 0.1\n  milestones: [1,\n    2]\ngrid:\n  b: [1]\n", "f.yaml")
    for setting, path in [
        ("train.milestones=[1, x]", ("train", "milestones", 1)),
        ("train={lr: 1}", ("train", "lr")),
        ("grid={b: [2]}", ("grid", "b")),
    ]:
        document = yaml_file.overridden(base, [setting])
        assert document.place(path) == f"--set {setting}"
        assert document.place(("a",)) == "f.yaml:1"


def test_a_file_that_extends_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml")
    (tmp_path / "b.yaml").write_text("extends: a.yaml")
    with pytest.raises(UserError, match="extends itself, by way of"):
        yaml_file.read(tmp_path / "a.yaml")


def test_overrides_are_read_as_yaml_and_the_last_wins() -> None:
    document = yaml_file.overridden(Document({}), ["train.lr=1e-2", "train.milestones=[1, 2]", "train.lr=0.5"])
    assert document.data == {"train": {"lr": 0.5, "milestones": [1, 2]}}


@pytest.mark.parametrize("setting", ["train.lr", "=1", "a..b=1", ""])
def test_an_override_without_key_and_value_is_refused(setting: str) -> None:
    with pytest.raises(UserError, match="expected KEY=VALUE"):
        yaml_file.overridden(Document({}), [setting])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("FALSE", False), ("yes", "yes"), ("off", "off"), ("n", "n"),
        ("~", None), ("null", None), ("", None),
        ("12", 12), ("-7", -7), ("010", 10), ("0o17", 15), ("0x1F", 31), ("0b11", "0b11"), ("1_000", "1_000"),
        ("1e-1", 0.1), ("64e3", 64_000), ("1.5e3", 1500), ("1e0", 1), ("1.", 1.0), (".5", 0.5), ("-.inf", -math.inf),
        ("24:00:00", "24:00:00"), ("1:30", "1:30"), ("2020-01-02", "2020-01-02"), ("=", "="), ("1e400", math.inf),
    ],
)  # fmt: skip
def test_plain_words_mean_what_the_core_schema_of_yaml_1_2_says(text: str, value: object) -> None:
    found = yaml_file.parse(f"a: {text}\n", "f.yaml").data["a"]
    assert (found, type(found)) == (value, type(value))


_plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_subnormal=False)
    | st.text(st.characters(codec="ascii")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcdef", min_size=1), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text("abcdef", min_size=1), _plain, max_size=4))
def test_what_is_dumped_is_read_back(data: dict[str, object]) -> None:
    assert yaml_file.parse(yaml_file.dump(data), "x").data == data


def test_words_that_look_like_other_values_are_read_back_as_words() -> None:
    data = {"a": ["yes", "0o17", "1e3", "24:00:00", "null", "12", "<<", "2020-01-02", 1e16, 0.1, 1.0, True, None]}
    again = yaml_file.parse(yaml_file.dump(data), "f.yaml").data
    assert again == data
    assert [type(value) for value in again["a"]] == [type(value) for value in data["a"]]


def test_a_value_of_an_alias_stands_where_it_is_written() -> None:
    document = yaml_file.parse("one: &a\n  x: [1]\ntwo:\n  three: *a\nfour: {<<: *a}\n", "f.yaml")
    assert document.data["two"] == {"three": {"x": [1]}}
    assert document.place(("two", "three")) == "f.yaml:4"
    assert document.place(("two", "three", "x", 0)) == "f.yaml:2"
    assert document.place(("four", "x", 0)) == "f.yaml:2"


def test_merge_keys_are_read_and_what_stands_beside_them_wins() -> None:
    text = "base: &b {x: 1, y: 1}\nother: &o {y: 2, z: 2}\none: {<<: *b, x: 9}\ntwo: {y: 3, <<: [*o, *b]}\n"
    data = yaml_file.parse(text, "f.yaml").data
    assert data["one"] == {"x": 9, "y": 1}
    assert data["two"] == {"y": 3, "z": 2, "x": 1}
    around = yaml_file.parse("a: &b\n  x: 1\n  y: [1,\n    2]\none:\n  x: 3\n  <<: *b\n  y: [1, 2]\n", "f.yaml")
    assert around.data["one"] == {"x": 3, "y": [1, 2]}
    assert [around.place(("one", *path)) for path in (("x",), ("y",), ("y", 1))] == ["f.yaml:6", "f.yaml:8", "f.yaml:8"]
    with pytest.raises(UserError, match=r"f.yaml:1: <<: expected a mapping, such as \*base"):
        yaml_file.parse("a: {<<: 1}", "f.yaml")


@pytest.mark.parametrize("value", ["a: b", "x # y", "C:", "- a", "# a", "100% wool"])
def test_an_override_is_taken_as_it_was_typed(value: str) -> None:
    assert yaml_file.overridden(Document({}), [f"description={value}"]).data == {"description": value}
