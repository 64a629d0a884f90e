"""Runs that start with a file of weights: by its content, for the same net, and what is refused."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from resexp.config import RunConfig
from resexp.config.study import load, load_run
from resexp.errors import UserError
from resexp.evaluation.weights import export
from resexp.probing import steps_behind
from resexp.runs.store import Run
from resexp.training.train import train
from tests.test_training import after, assert_same, measured, weights

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Write = Callable[..., Path]


@pytest.fixture
def make(write_study: Write, tmp_path: Path) -> Callable[..., Run]:
    """A run of the tiny study, with these sections; not trained yet."""

    def run(**sections: object) -> Run:
        config = load(str(write_study(**sections)))[1][0].config
        made = Run(tmp_path / "results/tiny" / config.folder)
        made.create(config)
        return made

    return run


@pytest.fixture
def donor(make: Callable[..., Run]) -> Run:
    run = make(train={"steps": 30, "lr": 0.05})
    assert train(run).state == "finished"
    return run


def test_a_donor_was_trained_on_the_same_images(donor: Run, make: Callable[..., Run]) -> None:
    """Other images at the same path have another fingerprint."""
    manifest = donor.manifest_path.read_text()
    donor.manifest_path.write_text(re.sub(r'("fingerprint": )"\w+"', r'\1"0000000000000000"', manifest))
    with pytest.raises(UserError, match="trained on other data; a run starts from one with the same data"):
        train(make(train={"init_from": str(donor.folder)}))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_of_weights_starts_a_run_as_its_run_does(
    donor: Run, make: Callable[..., Run], suffix: str, tmp_path: Path
) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    export(donor, to := tmp_path / f"weights{suffix}")
    from_file, from_run = make(train={"init_from": str(to)}), make(train={"init_from": str(donor.folder)})
    assert from_file.folder != from_run.folder
    assert train(from_file, stop=lambda: True).state == "interrupted"  # before the first step
    started, given = weights(from_file), weights(donor)
    assert all(torch.equal(started[name], value) for name, value in given.items())
    assert train(from_file).state == train(from_run).state == "finished"
    assert measured(from_file) == measured(from_run)
    assert not from_file.probe_folder.exists()


def test_the_content_makes_the_run_wherever_it_lies(donor: Run, make: Callable[..., Run], tmp_path: Path) -> None:
    export(donor, to := tmp_path / "weights.pt")
    (tmp_path / "elsewhere").mkdir()
    copy = Path(shutil.copyfile(to, tmp_path / "elsewhere/other.pt"))
    run = make(train={"init_from": str(to)})
    assert make(train={"init_from": str(copy)}).folder == make(train={"init_from": "weights.pt"}).folder == run.folder
    assert make().folder != run.folder
    torch.save({name: value + 1 for name, value in torch.load(to).items()}, copy)
    assert make(train={"init_from": str(copy)}).folder != run.folder
    known = load_run(run.config_path).train.init_from
    to.unlink()
    assert load_run(run.config_path).train.init_from == known  # a run folder can be read without the file


def test_a_run_that_has_begun_needs_its_file_no_more(donor: Run, make: Callable[..., Run], tmp_path: Path) -> None:
    export(donor, to := tmp_path / "weights.pt")
    whole = make(train={"init_from": str(to)})
    stopped = Run(Path(shutil.copytree(whole.folder, tmp_path / "copy" / whole.folder.parent.name / "seed0")))
    assert train(whole).state == "finished"
    assert train(stopped, stop=after(6)).state == "interrupted"
    to.unlink()
    assert train(stopped).state == "finished"
    assert_same(whole, stopped)


def test_a_net_of_so_many_parameters_takes_weights_of_its_width(make: Callable[..., Run], tmp_path: Path) -> None:
    first = make(model={"width": None, "params": 10_000})
    train(first)
    export(first, to := tmp_path / "weights.pt")
    assert train(make(model={"width": None, "params": 10_000}, train={"init_from": str(to)})).state == "finished"


def test_what_does_not_fit_gets_a_line(donor: Run, make: Callable[..., Run], here: Cli, tmp_path: Path) -> None:
    export(donor, good := tmp_path / "good.pt")
    bare = Path(shutil.copyfile(good, tmp_path / "bare.pt"))
    of = torch.load(good)
    torch.save({name: value for name, value in of.items() if not name.startswith("bn.")}, tmp_path / "less.pt")
    torch.save({**of, "fc.weight": of["fc.weight"][:4], "fc.bias": of["fc.bias"][:4]}, tmp_path / "four.pt")
    (tmp_path / "text.pt").write_text("no weights")
    for path, model, line in [
        (
            good,
            {"width": 4},
            "holds residual-8-width=2, and the run's net is residual-8-width=4; name weights of the same",
        ),
        (
            good,
            {"depth": 14},
            "holds residual-8-width=2, and the run's net is residual-14-width=2; name weights of the",
        ),
        (
            bare,
            {"width": 4},
            "bare.pt: conv.weight has the shape 2x3x3x3, and in the net 4x3x3x3; name weights of the same",
        ),
        (bare, {"depth": 14}, "bare.pt: lacks stages.0.1.conv1.weight and "),
        (tmp_path / "less.pt", {}, "less.pt: lacks bn.weight and 4 more; name weights of the same net"),
        (
            tmp_path / "four.pt",
            {},
            "four.pt: weights for 4 classes, and here are 10; name weights for the same classes",
        ),
        (tmp_path / "text.pt", {}, "text.pt: not a file of weights ("),
    ]:
        run = make(model=model, train={"init_from": str(path)})
        with pytest.raises(UserError) as refused:
            train(run)
        assert line in str(refused.value)
        assert len(refused.value.args) == 1
        assert run.status().state != "finished"
    run = make(train={"init_from": str(good)})
    torch.save(of | {"bn.weight": of["bn.weight"] + 1}, good)
    with pytest.raises(UserError, match=r"good.pt: changed since the run was made \(sha256 .* bring the old file back"):
        train(run)
    good.unlink()
    with pytest.raises(UserError, match="the weights to start from can't be read"):
        train(run)


def test_a_study_that_names_no_file_is_refused_before_a_run_is_made(write_study: Write, here: Cli) -> None:
    study = write_study(train={"init_from": "nowhere.pt"})
    done = here("sweep", "--config", study)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert (
        "train.init_from: no file of weights that can be read (No such file or directory), got 'nowhere.pt'"
        in done.stderr
    )
    assert not Path("results").exists()


def test_a_run_that_is_not_there_is_no_start_and_no_run_is_made(write_study: Write, here: Cli) -> None:
    done = here("sweep", write_study(train={"init_from": "nowhere/seed0"}, seeds=[0, 1]))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "nowhere/seed0: no run folder to start from" in done.stderr
    assert not list(Path("results").glob("*/*/seed*"))


def test_what_weights_drop_next_is_the_new_runs_own(make: Callable[..., Run], tmp_path: Path) -> None:
    """A file holds the random state of stochastic depth; all seeds would lose the same branches."""
    first = make(model={"drop_path": 0.5})
    train(first)
    export(first, to := tmp_path / "weights.pt")
    of_file = make(model={"drop_path": 0.5}, train={"init_from": str(to)}, seeds=[7])
    alone = make(model={"drop_path": 0.5}, seeds=[7])
    for run in (of_file, alone):
        train(run)
    keys = [{n: v for n, v in weights(run).items() if ".draws." in n} for run in (of_file, alone)]
    assert keys[0]
    assert keys[0].keys() == keys[1].keys()
    assert all(torch.equal(keys[0][name], keys[1][name]) for name in keys[0])


@pytest.mark.parametrize("named", ["$DONOR", "${DONOR}/", "../seed0", "seed0", "../../plain-8-0123/seed0"])
def test_a_start_is_the_run_that_its_folder_names(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By variables, and from within the net's folder or a run's."""
    (folder := tmp_path / "plain-8-0123/seed0").mkdir(parents=True)
    monkeypatch.setenv("DONOR", str(folder))
    monkeypatch.chdir(folder.parent if named == "seed0" else folder)
    config = RunConfig.model_validate({"train": {"init_from": named}})
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DONOR")
    assert config.train.measured()["init_from"] == "plain-8-0123/seed0"
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


def test_a_variable_may_name_a_file_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path := tmp_path / "w.pt").write_bytes(b"weights")
    monkeypatch.setenv("W", str(path))
    by_variable, written_out = (RunConfig.model_validate({"train": {"init_from": name}}) for name in ("$W", str(path)))
    assert by_variable == written_out
    assert by_variable.train.init_weights == (str(path), hashlib.sha256(b"weights").hexdigest())
    monkeypatch.delenv("W")
    with pytest.raises(ValidationError, match=r"\$W: the environment variable W is not set; set it, or write the path"):
        RunConfig.model_validate({"train": {"init_from": "$W"}})


def test_a_pipe_in_place_of_weights_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.pt")
    with pytest.raises(ValidationError, match=r"no file of weights that can be read \(not a plain file\)"):
        RunConfig.model_validate({"train": {"init_from": str(tmp_path / "w.pt")}})


def test_a_dry_run_says_what_training_could_not_start_from(
    donor: Run, write_study: Write, here: Cli, tmp_path: Path
) -> None:
    """Another net's weights, and a run that is not there."""
    export(donor, to := tmp_path / "weights.pt")
    done = here("sweep", write_study(train={"init_from": str(to)}), "--dry-run")
    assert "training would stop there" not in done.stdout
    done = here("sweep", write_study(train={"init_from": str(to)}, model={"width": 4}), "--dry-run")
    assert done.returncode == 0
    assert re.search("train.init_from: .*weights.pt: holds .*, and the run's net is .*; training would", done.stdout)
    done = here("sweep", write_study(train={"init_from": "nowhere/seed0"}), "--dry-run")
    assert "train.init_from: nowhere/seed0: no run folder to start from (no config.yaml); training would" in done.stdout


def test_the_steps_behind_a_file_are_unknown(donor: Run, make: Callable[..., Run], tmp_path: Path) -> None:
    export(donor, to := tmp_path / "weights.pt")
    assert steps_behind(make(train={"init_from": str(donor.folder)})) == 12 + 30
    with pytest.raises(UserError, match=r"it started from .*weights.pt, whose steps are unknown; name another run"):
        steps_behind(make(train={"init_from": str(to)}))


def test_a_pinned_digest_is_kept() -> None:
    """A study file may name the content itself."""
    pinned = f"far/away.pt#sha256={'ab' * 32}"
    config = RunConfig.model_validate({"train": {"init_from": pinned}})
    assert config.train.init_weights == ("far/away.pt", "ab" * 32)
    assert config.train.measured()["init_from"] == f"sha256={'ab' * 32}"
