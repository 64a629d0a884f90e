"""The command line: help, exit codes, one clear line for every mistake, and what it imports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resexp import __version__
from resexp.config.study import json_schema
from resexp.data.imagenet.example import make_example
from tests.conftest import command, wait_until

Write = Callable[..., Path]
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize(
    "verb", ["train", "sweep", "status", "report", "describe", "schema", "data fetch", "data verify", "data info"]
)
def test_every_command_has_help_with_an_example(here: Cli, verb: str) -> None:
    done = here(*verb.split(), "--help")
    assert done.returncode == 0
    assert "Example: " in done.stdout
    assert f"resexp {verb}" in done.stdout


@pytest.mark.parametrize("verb", ["", "sweep", "data fetch", "probe lesion"])
def test_help_has_a_short_form(here: Cli, verb: str) -> None:
    assert here(*verb.split(), "-h").stdout == here(*verb.split(), "--help").stdout


@pytest.mark.parametrize("verb", ["sweep", "data fetch", "data check"])
def test_an_argument_that_may_be_left_out_has_one_pair_of_brackets(here: Cli, verb: str) -> None:
    usage = here(*verb.split(), "--help").stdout.split("\n")[1].split()
    assert usage[-1] in ("[STUDY]", "[SET]")


@pytest.mark.parametrize("results", ["file", "file/inside", "link"])
def test_what_is_no_folder_is_named_where_a_folder_is_needed(here: Cli, write_study: Write, results: str) -> None:
    Path("file").write_text("x")
    Path("link").symlink_to("nowhere")
    name = results.partition("/")[0]
    for verb in ("train", "sweep"):
        done = here(verb, write_study(), "--results", results)
        assert done.returncode == 2
        assert (
            done.stderr.splitlines()[-1] == f"resexp: {name}: not a folder; move it elsewhere, or name another folder"
        )


@pytest.mark.parametrize("words", [["sweep", "", "--dry-run"], ["status", ""], ["report", ""], ["diff", "", ""]])
def test_an_empty_name_is_neither_the_quickstart_nor_the_newest_study(here: Cli, words: list[str]) -> None:
    """As a script gives it whose variable is not set."""
    done = here(*words)
    assert (done.returncode, done.stderr) == (
        2,
        "resexp: '': an empty path; write one, or . for the current folder\n",
    )


@pytest.mark.parametrize("words", [["check"], ["prepare", "--set", "data.cache={side: 256}"]])
def test_a_set_of_images_is_named_by_its_study_with_or_without_an_option(
    here: Cli, tmp_path: Path, words: list[str]
) -> None:
    make_example(tmp_path / "images", 2, 3, 2, 0)
    study = tmp_path / "study.yaml"
    study.write_text("data: {source: imagenet, path: images}\nmodel: {variant: imagenet, depth: 18}\n")
    for named in ([study], ["--config", study]):
        done = here("data", words[0], *named, *words[1:])
        assert done.returncode == 0, done.stderr
    done = here("data", words[0], study, "--config", study)
    assert done.stderr == f"resexp: data {words[0]}: the study is named twice; name it once\n"
    done = here("data", words[0])
    assert (done.returncode, done.stderr) == (2, f"resexp: data {words[0]}: name a study, such as imagenet/figure4\n")


def test_the_version(here: Cli) -> None:
    assert here("--version").stdout == f"resexp {__version__}\n"


def test_the_schema_is_printed(here: Cli) -> None:
    assert json.loads(here("schema").stdout) == json_schema()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sweep", "--config", "nowhere"], "nowhere: no such file, and no shipped study"),
        (["sweep", "--set", "train.stepz=3"], "--set train.stepz=3: train.stepz: unknown key"),
        (["sweep", "--set", "train.steps"], "--set train.steps: expected KEY=VALUE"),
        (["sweep", "--set", "grid={model.depth: 21}"], "model.depth: must be 6n+2; the nearest are 20 and 26, got 21"),
        (["sweep", "--only", "plain-21"], "--only plain-21: no such net in this study"),
        (["train"], "train: give either a study, such as cifar10/resnet20, or runs to continue"),
        (["sweep", "--only", ""], "--only : no such net in this study"),
        (["train", "nowhere"], "nowhere: no such file, and no shipped study"),
        (["train", "nowhere:plain-20"], "nowhere:plain-20: no study 'nowhere'; results has no study yet"),
        (["train", "x:y", "--seed", "3"], "train: --set, --seed, --no-cuda-graphs and --dry-run go with a study"),
        (["status"], "results: no study here yet; run `resexp sweep` first"),
        (["status", "nowhere"], "nowhere: neither a run folder (config.yaml) nor a study folder (study.json)"),
        (["report"], "results: no study here yet"),
        (["describe"], "describe: give either nets, such as plain-20 residual-20, or --config FILE"),
        (["describe", "plain-20", "--config", "quickstart"], "describe: give either nets"),
        (["describe", "plain-20", "--svg", "nowhere/nets.svg"], "No such file or directory"),
        (["describe", "plain-20", "--svg", "nets.png"], "--svg nets.png: the drawing is an SVG file; name it nets.svg"),
        (["describe", "plain-20-mine"], "a plug-in's part has its role before its name, such as block=scaled"),
        (["sweep", "."], ".: a folder, where the file of a study is expected; for images of your own, add --set "),
        (["data", "verify"], "CIFAR-10 is not here; run `resexp data fetch cifar10`"),
        (["sweep", "--config", "cifar10/resnet20"], "CIFAR-10 is not here; run `resexp data fetch cifar10`"),
        (["sweep", "--config", "cifar100/figure6"], "CIFAR-100 is not here; run `resexp data fetch cifar100`"),
        (["sweep", "--config", "svhn/figure6"], "training set is not here; run `resexp data fetch svhn`"),
        (["sweep", "--set", "train.device=cuda:99"], "train.device: cuda:99 asked for, but"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(here: Cli, arguments: list[str], says: str) -> None:
    done = here(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_study_in_which_nothing_has_finished_is_not_reported(write_study: Write, here: Cli) -> None:
    study = write_study(train={"steps": 100_000, "log_every": 1})
    process = subprocess.Popen(command("sweep", "--config", study), stdout=subprocess.PIPE, text=True)
    wait_until(process, lambda: bool(list(Path("results").glob("tiny/*/seed0/metrics.jsonl"))))
    done = here("report")
    assert (done.returncode, "no finished run to report yet (1 running)" in done.stderr) == (2, True)
    table = here("status")
    assert "running" in table.stdout
    process.terminate()
    said, _ = process.communicate()
    assert (process.returncode, "the same command continues" in said) == (143, True)
    record = json.loads(here("status", "--json").stdout)[0]
    assert record["state"] == "interrupted"
    assert 0 < record["step"] < record["steps"] == 100_000


def test_names_with_brackets_are_shown_as_they_are(write_study: Write, here: Cli) -> None:
    done = here("sweep", "--config", write_study(executor={"name": "debug"}), "--results", "x[/b]")
    assert done.returncode == 0
    assert "x[/b]/tiny: 1 trained" in done.stdout
    for verb in ("status", "report"):
        done = here(verb, "--results", "x[/b]")
        assert done.returncode == 0
        assert "x[/b]/tiny" in done.stdout


def test_a_number_between_colons_is_no_emoji(write_study: Write, here: Cli) -> None:
    study = write_study(model=None)
    study.write_text(study.read_text() + "#\n" * (99 - len(study.read_text().splitlines())) + "model: 3\n")
    assert here("sweep", study).stderr.startswith(f"resexp: {study}:100: model: ")


def test_data_info_says_where_to_place_the_archive_by_hand(here: Cli, tmp_path: Path) -> None:
    said = here("data", "info", RESEXP_DATA=str(tmp_path / "elsewhere")).stdout
    assert f"{tmp_path / 'elsewhere' / 'cifar-10-python.tar.gz'}: not here" in said
    assert "c58f30108f718f92721af3b95e74349a" in said


def test_only_training_imports_torch(write_study: Write, here: Cli) -> None:
    assert here("sweep", "--config", write_study(executor={"name": "debug"})).returncode == 0
    script = (
        "import sys\n"
        "from resexp.cli import app\n"
        "try:\n    app(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "print('torch' in sys.modules, 'pydantic' in sys.modules, file=sys.stderr)"
    )
    for arguments in (["--help"], ["status", "--json"], ["report", "--json"], ["sweep", "--dry-run"]):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
        assert done.stderr.split()[-2:] == ["False", str(arguments != ["--help"])]


def test_a_worker_does_not_load_the_libraries_of_reports() -> None:
    program = (
        "import sys, resexp.executors.worker\n"
        "print(*(name for name in ('scipy', 'pandas', 'matplotlib', 'jinja2', 'torchvision') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
