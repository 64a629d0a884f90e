"""What is published comes from committed records: pages, tables and every number that the README quotes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from resexp.errors import UserError
from resexp.report import page, read
from tests import published
from tests.keys import KEYS, keys
from tests.published import DOCUMENTS, PUBLISHED, QUOTATION, REPOSITORY

NAMES = [study.folder.name for study in published.studies()]
EVIDENCE = (REPOSITORY / "results/README.md").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_documents_quote_their_records(document: Path) -> None:
    """`make published` writes what they say."""
    text = document.read_text()
    assert len(QUOTATION.findall(text)) >= 2
    assert published.filled(text) == text


def test_the_reference_of_keys_is_the_schema() -> None:
    """`make published` writes it, too."""
    assert KEYS.read_text() == keys()
    assert "| `lr` | number > 0, or a mapping | `0.1` | Initial learning rate." in keys()


def test_outside_of_quotations_no_measured_number_is_named() -> None:
    """A percentage, points or a factor, but for the paper's and those of the machine."""
    measured = EVIDENCE.partition("## Degradation on CIFAR-10")[2]
    assert measured
    prose = re.sub(r"```.*?```", "", QUOTATION.sub("", measured), flags=re.DOTALL)
    assert re.findall(r"\d[\d.,]*(?= (?:%|points?|times)\b| %)", prose) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_published_texts_are_what_the_records_say(name: str) -> None:
    summary, sections, remarks = read(published.StudyFolder(PUBLISHED / name))
    report = PUBLISHED / name / "report"
    assert (report / "summary.md").read_text() == page.markdown(summary, sections, remarks)
    assert (report / "deviations.md").read_text() == page.deviations_markdown(summary)


@pytest.mark.parametrize("name", NAMES)
def test_the_published_page_is_small_and_linked(name: str) -> None:
    assert (PUBLISHED / name / "report/index.html").stat().st_size < 600_000
    assert f"(published/{name}/report/" in EVIDENCE


@pytest.mark.parametrize(
    ("quotation", "says"),
    [
        ("nowhere: verdict", "nowhere: no such study in results/published"),
        ("quickstart: sections", "quickstart: sections: no record has it; there are verdict, headline, controls, "),
    ],
)
def test_a_number_that_no_record_has_is_one_line(quotation: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        published.filled(f"<!-- {quotation} -->\n<!-- end -->")
    assert str(error.value).startswith(says)
