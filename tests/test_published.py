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


def test_the_readme_gives_the_costs_and_the_ratio_of_the_records() -> None:
    """Minutes on two cores within a fifth: other machines differ by more."""
    readme = (REPOSITORY / "README.md").read_text()

    def minutes(name: str, cores: int = 1) -> float:
        runs = [run for net in published.summary(name).nets for run in net.runs]
        return sum(run.seconds for run in runs) / 60 / cores

    (of_class,) = re.findall(r"sweep cifar10/class .*three seeds: (\d+) minutes on two cores", readme)
    assert int(of_class) == pytest.approx(minutes("class", 2), rel=0.2)
    assert "four to six minutes on two cores, no download" in readme
    assert 4 < minutes("quickstart", 2) < 6
    (hours,) = re.findall(r"`cifar10/cpu-small` .* (\d+) core-hours on a CPU", readme)
    assert int(hours) == round(minutes("cpu-small") / 60)
    (on_gpu,) = re.findall(r"`cifar10/figure6-ends` .* (\d+) minutes on one H200", readme)
    assert f" {on_gpu} minutes" in re.sub(
        r"([0-9.]+) minutes", lambda m: f"{float(m[1]):.0f} minutes", published.pace("figure6-ends")
    )
    assert "In residual nets it rises about a fifth as much" in readme
    verdict = published.summary("cpu-small").verdict
    assert verdict.plain is not None
    assert verdict.residual is not None
    assert round(verdict.plain.overall.value / verdict.residual.overall.value) == 5


def test_the_evidence_has_every_published_study_of_cifar_10() -> None:
    makefile = (REPOSITORY / "Makefile").read_text().replace("\\\n", " ")
    (named,) = re.findall(r"^EVIDENCE := (.*)$", makefile, re.MULTILINE)
    built = {"identity-plain", "identity-residual"}  # they begin from runs of another study
    assert set(named.split()) == set(NAMES) - built - {"quickstart"}


@pytest.mark.parametrize("name", [name for name in NAMES if (REPOSITORY / f"configs/cifar10/{name}.yaml").exists()])
def test_the_intervals_in_the_header_of_a_study_are_its_results(name: str) -> None:
    header = (REPOSITORY / f"configs/cifar10/{name}.yaml").read_text().partition("\nextends:")[0].replace("\n# ", " ")
    intervals = re.findall(r"\[[+-][\d.]+, [+-][\d.]+\]", header)
    shown = (PUBLISHED / name / "report/summary.md").read_text()
    assert [interval for interval in intervals if interval not in shown] == []
