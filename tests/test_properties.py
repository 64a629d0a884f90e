"""Properties that hold for any input."""

from __future__ import annotations

import contextlib

import pytest

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

from resexp.config import yaml_file
from resexp.errors import UserError

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
def test_what_is_written_is_read_back(data: dict[str, object]) -> None:
    assert yaml_file.parse(yaml_file.dump(data), "x").data == data


@given(st.text(max_size=200))
def test_no_text_ends_in_anything_but_a_document_or_a_line(text: str) -> None:
    with contextlib.suppress(UserError):
        yaml_file.parse(text, "x")
