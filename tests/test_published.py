"""What is published comes from committed records: pages, tables and every number that the README quotes."""

from __future__ import annotations

import re

import pytest

from resexp.errors import UserError
from resexp.report import page
from resexp.report.deviations import deviations, markdown
from resexp.report.probes import inside
from tests import published
from tests.published import PUBLISHED, QUOTATION, README

NAMES = [study.folder.name for study in published.studies()]
TEXT = README.read_text()


def test_the_readme_quotes_its_records() -> None:
    """`make published` writes what they say."""
    assert len(QUOTATION.findall(TEXT)) >= 5
    assert published.filled(TEXT) == TEXT


def test_outside_of_quotations_no_measured_number_is_named() -> None:
    """A percentage, points or a factor, but for the paper's and those of the machine."""
    measured = TEXT.partition("## Measured")[2].partition("\n## ")[0]
    assert measured
    prose = re.sub(r"```.*?```", "", QUOTATION.sub("", measured), flags=re.DOTALL)
    assert re.findall(r"\d[\d.,]*(?= (?:%|points?|times)\b| %)", prose) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_published_texts_are_what_the_records_say(name: str) -> None:
    summary = published.summary(name)
    sections, remarks = inside(published.StudyFolder(PUBLISHED / name), summary)
    report = PUBLISHED / name / "report"
    assert (report / "summary.md").read_text() == page.markdown(summary, sections, remarks)
    assert (report / "deviations.md").read_text() == markdown(summary.name, deviations(summary.nets))


@pytest.mark.parametrize("name", NAMES)
def test_the_published_page_is_small_and_linked(name: str) -> None:
    assert (PUBLISHED / name / "report/index.html").stat().st_size < 600_000
    assert f"(results/published/{name}/report/" in TEXT


@pytest.mark.parametrize(
    ("quotation", "says"),
    [
        ("nowhere: verdict", "README.md: nowhere: no such study in results/published"),
        ("quickstart: sections", "README.md: quickstart: sections: no record has it; there are verdict, errors, "),
    ],
)
def test_a_number_that_no_record_has_is_one_line(quotation: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        published.filled(f"<!-- {quotation} -->\n<!-- end -->")
    assert str(error.value).startswith(says)
