"""Study files: the grid, labels, overrides, and every mistake said at once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from resexp.config.model import ModelConfig
from resexp.config.study import SHIPPED, json_schema, load, load_run, only_labels
from resexp.errors import UserError

Write = Callable[..., Path]

MODEL_KEYS = (
    "kind, variant, block, depth, width, params, shortcut, stride_conv, norm, activation, init, "
    "classifier_std, residual_init, residual_scale, drop_path"
)


def labels(path: Path, *settings: str) -> list[str]:
    return list(dict.fromkeys(cell.label for cell in load(str(path), list(settings))[1]))


def mistakes(path: Path, *settings: str) -> list[str]:
    with pytest.raises(UserError) as error:
        load(str(path), list(settings))
    return [line.replace(f"{path}:", "") for line in error.value.args]


def test_a_mapping_of_lists_is_a_product_and_seeds_repeat_it(write_study: Write) -> None:
    path = write_study(grid={"model.kind": ["plain", "residual"], "model.depth": [8, 14]}, seeds=[0, 5])
    _, cells = load(str(path))
    assert [(c.label, c.config.seed) for c in cells[:3]] == [("plain-8", 0), ("plain-8", 5), ("plain-14", 0)]
    assert len(cells) == 8
    assert cells[-1].config.model.depth == 14
    assert cells[-1].config.model.shortcut == "A"


def test_a_list_of_mappings_is_one_after_the_other(write_study: Write) -> None:
    path = write_study(
        grid=[{"model.kind": "plain", "model.depth": [8, 14]}, {"model.depth": 20, "train.warmup_lr": 0.01}]
    )
    _, cells = load(str(path))
    assert [c.label for c in cells] == ["plain-8", "plain-14", "residual-20"]
    assert [c.config.train.warmup_lr for c in cells] == [None, None, 0.01]


def test_without_a_grid_a_study_is_one_net(write_study: Write) -> None:
    assert labels(write_study()) == ["residual-8"]


def test_labels_show_what_differs_and_no_more(write_study: Write) -> None:
    path = write_study(grid={"model.depth": [8], "model.shortcut": ["A", "B"], "train.lr": [0.1]})
    assert labels(path) == ["residual-8-A", "residual-8-B"]
    path = write_study(grid={"train.milestones": [[3, 6], [4]]})
    assert labels(path) == ["residual-8-milestones=3+6", "residual-8-milestones=4"]


def test_overrides_reach_every_cell_and_may_replace_the_grid(write_study: Write) -> None:
    path = write_study(grid={"model.depth": [8, 14]})
    assert {c.config.train.lr for c in load(str(path), ["train.lr=1e-2"])[1]} == {0.01}
    assert labels(path, "grid={model.depth: [20]}") == ["residual-20"]


def test_null_gives_a_key_its_default(write_study: Write) -> None:
    path = write_study(train={"steps": 40, "milestones": [10, 30], "warmup_lr": 0.01})
    settings = ["train.steps=20", "train.milestones=null", "train.warmup_lr=null", "model=null"]
    (cell,) = load(str(path), settings)[1]
    assert (cell.config.train.milestones, cell.config.train.warmup_lr) == ((10, 15), None)
    assert cell.config.model == ModelConfig()
    varied = load(str(path), ["grid.train.lr=[0.1, 0.05]", *settings])[1]
    assert [cell.config.train.milestones for cell in varied] == [(10, 15)] * 2
    assert mistakes(path, "train.stepz=null")[0].startswith("--set train.stepz=null: train.stepz: unknown key")
    (line,) = mistakes(write_study(train={"lr": None}))
    assert line.endswith(": train.lr: empty; leave it out, or give it a value")


def test_an_override_of_one_key_of_the_grid_keeps_the_others(write_study: Write) -> None:
    path = write_study(grid={"model.kind": ["plain", "residual"], "model.depth": [8, 14]})
    assert labels(path, "grid.model.depth=[20]") == ["plain-20", "residual-20"]
    assert labels(path, "grid.model.depth=20", "grid.model.kind=plain", "grid.model.width=[4, 8]") == [
        "plain-20-width=4",
        "plain-20-width=8",
    ]
    assert labels(path, "grid={model.depth: [20]}", "grid.model.kind=[plain]") == ["plain-20"]
    assert mistakes(path, "grid.model.depth=[20, 21]") == [
        "--set grid.model.depth=[20, 21]: model.depth: must be 6n+2; the nearest are 20 and 26, got 21"
    ]
    assert labels(write_study(grid=None), "grid.model.depth=[8, 14]") == ["residual-8", "residual-14"]
    several = write_study(grid=[{"model.depth": [8, 14]}, {"model.depth": 20, "train.warmup_lr": 0.01}])
    assert labels(several, "grid.model.depth=[26]") == ["residual-26", "residual-26-warmup_lr=0.01"]
    several = write_study(grid=[{"model.depth": [14]}, {"model.kind": "plain"}])
    assert labels(several, "grid.model.depth=[20, 26]") == ["residual-20", "residual-26", "plain-8"]
    assert len(labels(several, "grid.model.width=[4, 8]")) == 4


def test_every_mistake_is_said_at_once_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "data: {source: shapez}\n"
        "model:\n"
        "  depht: 20\n"
        "  width: '8'\n"
        "train:\n"
        "  batch_size: 0\n"
        "  precision: bf61\n"
        "colour: red\n"
    )
    assert sorted(mistakes(path)) == [
        "1: data.source: got 'shapez'; allowed: cifar10, cifar100, svhn, folder, shapes, imagenet, imagefolder "
        "(did you mean 'shapes'?)",
        f"3: model.depht: unknown key, got 20; allowed: {MODEL_KEYS} (did you mean 'depth'?)",
        "4: model.width: should be a valid integer, got '8'",
        "6: train.batch_size: should be greater than or equal to 2, got 0",
        "7: train.precision: got 'bf61'; allowed: auto, fp32, bf16, fp16 (did you mean 'bf16'?)",
        "8: colour: unknown key, got 'red'; "
        "allowed: data, model, train, probes, name, description, plugins, grid, seeds, executor, report",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("grid:\n  model.depth: [20,\n    21]", "2: model.depth: must be 6n+2; the nearest are 20 and 26, got 21"),
        ("grid:\n  model.deph: 20", "2: model.deph: unknown key, got 20; allowed: kind, variant, block, depth, width"),
        (
            "grid:\n- {model.depth: 20}\n- {model.kind: plain,\n   model.shortcut: B}",
            "4: model.shortcut: a plain net has no",
        ),
        ("grid: {}", "1: grid: expected dotted keys with lists of values"),
        ("grid: []", "1: grid: the grid is empty"),
        ("grid: {model.depth: []}", "1: grid: model.depth has an empty list, so the grid is empty"),
        (
            "grid: {model: {depth: 20}}",
            "1: grid: model is a mapping; write dotted keys, such as grid: {model.depth: [...]}",
        ),
        (
            "grid: {depth: [20, 32]}",
            "1: grid: depth can't vary; the grid is over data, model and train; write model.",
        ),
        ("grid: {model.depth: [[20, 32], 44]}", "1: model.depth: should be a valid integer, got [20, 32]"),
        ("train: {lr: }", "1: train.lr: empty; leave it out, or give it a value"),
        ("train: {lr: 0,1}", "1: '1' has no value: commas in braces end values"),
        ("data: cifar10", "1: data: expected a mapping of keys to values, got 'cifar10'; write {source: cifar10}"),
        ("extends: .", "1: extends: .: a folder"),
        ("seeds: []", "1: seeds: expected at least 1 value, got []"),
        ("seeds: [1, 1]", "1: seeds: a seed is listed twice"),
        (
            "train: {lr: 0.001, warmup_lr: 0.02}",
            "1: train.warmup_lr: a warm-up has a lower rate than train.lr, 0.001; lower it, or set it to null for none",
        ),
        ("train: {steps: 10, milestones: [12]}", "1: train.milestones: 12 is not below train.steps, 10"),
        (
            "train: {steps: 3000000, log_every: 1}",
            "1: train.log_every: 3,000,000 lines of metrics; log at most 1,000,000 times in train.steps",
        ),
        ("grid: {seed: [3, 4]}", "1: grid: seed can't vary; the grid is over data, model and train"),
        ("seeds: 5", "1: seeds: expected a list, got 5; write [5]"),
        ("seeds: 0,1", "1: seeds: expected a list, got '0,1'; write [0,1]"),
        ("train:", "1: train: empty; leave it out"),
        ("name: 12", "1: name: should be a valid string, got 12; in quotes it is text"),
        (
            "train: {steps: 164 Epochs}",
            "1: train.steps: should be a valid integer, got '164 Epochs'; a number of epochs",
        ),
        ("seeds: [99999999999999999999]", "1: seeds[0]: should be less than"),
        ("model: {depth: 2}", "1: model.depth: must be 6n+2; the nearest are 8 and 14, got 2"),
        ("train: {device: 'cuda:99999'}", "1: train.device: expected auto, cpu, mps, cuda or cuda:N"),
        ("name: ../escape", "1: name: expected letters, digits"),
        ("data: {source: folder}", "1: data.path: missing"),
        ("model: 5", "1: model: expected a mapping of keys to values, got 5"),
        ("model: plain\ngrid: {model.depth: [20, 32]}", "1: model: expected a mapping of keys to values, got 'plain'"),
        ("train: [1]\ngrid: {train.lr: [0.1]}", "1: train: expected a mapping of keys to values, got [1]"),
        (
            "model: {residual_scale: -1}",
            "1: model.residual_scale: got -1; allowed: a number above 0, depth^-0.5, depth^-1",
        ),
        (
            "executor: {slurm: {options: {nice: 1.5}}}",
            "1: executor.slurm.options.nice: got 1.5; allowed: text, a whole number",
        ),
        ("train: {steps: 10 epochs, milestones: [1 epoch]}\ndata: {source: no}", "2: data.source: got 'no'; allowed"),
        (
            "train: {steps: 10 epochs, batch_size: 0}",
            "1: train.batch_size: should be greater than or equal to 2, got 0",
        ),
        ("extends: 3", "1: extends: expected the path of one YAML file, got 3"),
    ],
)
def test_each_kind_of_mistake_names_its_line(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    found = mistakes(path)
    assert len(found) == 1
    assert found[0].startswith(line)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("seed: 3", "(did you mean 'seeds'?)"),
        ("lr: 3", "(did you mean train.lr?)"),
        ("MODEL: {depth: 20}", "(did you mean 'model'?)"),
        ("model: {kind: PLAIN}", "(did you mean 'plain'?)"),
        ("train: {epochs: 164}", "; write steps: 164 epochs"),
        ("data:{source: cifar10", "; a colon needs a space behind it"),
        ("model.depth: 20", "; dotted keys are for the grid and --set; write model: {depth: ...}"),
    ],
)
def test_what_was_meant_is_named(tmp_path: Path, text: str, end: str) -> None:
    path = tmp_path / "near.yaml"
    path.write_text(text)
    (line,) = mistakes(path)
    assert line.endswith(end)


def test_a_file_that_extends_another_has_a_name_of_its_own(write_study: Write, tmp_path: Path) -> None:
    write_study(description="the base")
    (tmp_path / "my study é.yaml").write_text("extends: tiny.yaml\nseeds: [4]")
    study, cells = load(str(tmp_path / "my study é.yaml"))
    assert (study.name, study.description) == ("my-study", "")
    assert (cells[0].config.seed, cells[0].config.train.steps) == (4, 12)


@pytest.mark.parametrize(
    ("settings", "description"),
    [
        (["name=wider", "model.width=3"], "Narrow nets. Changed: model.width=3."),
        (["train.lr = 0.2", "grid.model.depth=[8]"], "Narrow nets. Changed: train.lr = 0.2, grid.model.depth=[8]."),
        (["seeds=[3]", "executor.jobs=1", "data.path=/elsewhere"], "Narrow nets."),
        (["model.width=3", "description=Wider nets."], "Wider nets."),
    ],
)
def test_a_description_says_what_was_changed_since_it_was_written(
    tmp_path: Path, settings: list[str], description: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: cifar10/cpu-small\ndescription: Narrow nets.\n")
    assert load(str(path), settings)[0].description == description


def test_without_a_description_there_is_nothing_to_correct(write_study: Write) -> None:
    assert load(str(write_study()), ["model.width=3"])[0].description == ""


def test_a_shipped_study_is_found_by_the_last_part_of_its_name() -> None:
    with pytest.raises(UserError) as refused:
        load("figure6")
    assert str(refused.value).endswith("(did you mean 'cifar10/figure6' or 'cifar100/figure6' or 'svhn/figure6'?)")


def test_shipped_studies_can_be_extended_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: cifar10/figure6\nseeds: [1, 2]")
    study, cells = load(str(tmp_path / "mine.yaml"))
    assert (study.name, len(cells)) == ("mine", 18)


def test_a_setting_is_no_remedy_for_a_section_that_is_a_word(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("executor: slurm\ndata: cifar10\n")
    assert mistakes(path, "executor.jobs=2", "data.flip=false") == [
        "2: data: expected a mapping of keys to values, got 'cifar10'; write {source: cifar10}",
        "1: executor: expected a mapping of keys to values, got 'slurm'",
    ]


def test_the_path_of_images_is_missing_where_their_source_stands(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("data: {source: folder}")
    assert mistakes(path, "data.flip=false") == ["1: data.path: missing"]
    path.write_text("data: {flip: false}")
    assert mistakes(path, "data.source=folder") == ["--set data.source=folder: data.path: missing"]


def test_mistakes_in_the_base_do_not_hide_those_of_the_grid(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("train: {stepz: 5}\ngrid:\n  model.depth: [20, 21]\n")
    assert [line[:20] for line in mistakes(path)] == ["1: train.stepz: unkn", "3: model.depth: must"]


def test_an_override_of_what_the_grid_varies_is_refused(write_study: Write) -> None:
    path = write_study(grid={"model.depth": [8, 14]})
    assert mistakes(path, "model.depth=20") == [
        "--set model.depth=20: model.depth: the grid of the study sets it; choose with --only, or with "
        "--set 'grid.model.depth=[...]'"
    ]


def test_a_base_that_is_not_there_is_named_with_the_line_that_asks_for_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nextends: nosuch.yaml\n")
    assert mistakes(path) == ["2: extends: nosuch.yaml: no such file next to it"]
    path.write_text("name: mine\nextends: cifar10/figure7\n")
    assert mistakes(path)[0].startswith("2: extends: cifar10/figure7: no such file, and no shipped study")


def test_an_override_of_a_key_that_does_not_exist_is_refused(write_study: Write) -> None:
    assert mistakes(write_study(), "train.warmup=3") == [
        "--set train.warmup=3: train.warmup: unknown key, got 3; allowed: steps, batch_size, lr, optimizer, "
        "microbatch, schedule, warmup_steps, label_smoothing, clip_norm, patience, max_lr_drops, "
        "milestones, gamma, momentum, weight_decay, warmup_lr, warmup_until_error, init_from, precision, "
        "eval_every, precise_bn_images, sync_bn, device, cuda_graphs, compile, log_every, "
        "checkpoint_steps, checkpoint_seconds (did you mean 'warmup_lr'?)"
    ]


def test_a_cell_that_stands_in_the_grid_twice_is_refused(write_study: Write) -> None:
    path = write_study(grid=[{"model.depth": [8, 14]}, {"model.depth": 14}])
    assert "residual-14 with seed 0 stands in the grid twice" in mistakes(path)[0]


def test_cells_that_would_share_a_folder_are_refused(write_study: Write) -> None:
    path = write_study(grid={"train.log_every": [1, 2]})
    assert mistakes(path) == [
        " grid: residual-8-log_every=1 and residual-8-log_every=2 differ in keys that don't count for a run's folder, "
        "so they would share one; make two studies of them"
    ]


def test_a_file_or_label_that_is_not_there_gets_a_suggestion(write_study: Write) -> None:
    with pytest.raises(UserError, match=r"no shipped study; those are .*did you mean 'cifar10/figure6'"):
        load("cifar10/figure")
    with pytest.raises(UserError, match="no such file"):
        load("nowhere.yaml")
    _, cells = load(str(write_study(grid={"model.depth": [8, 14]})))
    with pytest.raises(UserError, match=r"it has residual-8, residual-14 \(did you mean 'residual-14'\?\)"):
        only_labels(cells, ["residual14"])


@pytest.mark.parametrize("path", sorted(SHIPPED.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_study_loads_and_satisfies_its_schema(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESEXP_PLUGINS", os.pathsep.join(map(str, path.parent.glob("*.py"))))
    first = path.read_text().splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    schema = path.parent / first.partition("=")[2]
    assert json.loads(schema.read_text()) == json_schema(), "run `make schema`"
    pytest.importorskip("jsonschema").validate(yaml.safe_load(path.read_text()), json_schema())
    name = str(path.relative_to(SHIPPED).with_suffix(""))
    study, cells = load(name)
    assert study.name in (path.stem, f"{path.stem}-{path.parent.name}")
    assert study.description
    assert cells


def test_no_two_shipped_studies_share_a_results_folder() -> None:
    names = [yaml.safe_load(path.read_text())["name"] for path in SHIPPED.rglob("*.yaml")]
    assert sorted(set(names)) == sorted(names)


def test_figure_6_is_the_papers_nine_nets() -> None:
    _, cells = load("cifar10/figure6")
    assert [c.label for c in cells] == [
        *(f"plain-{depth}" for depth in (20, 32, 44, 56)),
        *(f"residual-{depth}" for depth in (20, 32, 44, 56, 110)),
    ]
    assert [c.config.train.warmup_lr for c in cells] == [None] * 8 + [0.01]
    assert {c.config.train.steps for c in cells} == {64_000}


def test_the_schema_refuses_what_the_loader_refuses() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"train": {"stepz": 3}}, json_schema())


def test_a_run_configuration_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: {depth: 20}\nsead: 3\n")
    with pytest.raises(UserError, match=r"config.yaml:2: sead: unknown key, got 3; .*did you mean 'seed'"):
        load_run(tmp_path / "config.yaml")


def test_an_empty_file_is_no_study(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("# nothing\n")
    with pytest.raises(UserError, match=r"s\.yaml: empty; a study names at least one key"):
        load(str(tmp_path / "s.yaml"))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("model.depth=20,32", r"--set 'grid.model.depth=\[20,32\]'"),
        ("model.depth=[20, 32]", r"--set 'grid.model.depth=\[20, 32\]'"),
        ("train.lr=0.1,0.01", r"--set 'grid.train.lr=\[0.1,0.01\]'"),
        ("data.source=[cifar10, svhn]", r"got \['cifar10', 'svhn'\]; .*--set 'grid.data.source=\[cifar10, svhn\]'"),
        ("lr=0.1", r"did you mean train.lr\?"),
        ("width=4", r"did you mean model.width\?"),
        ("data.flip=yes", r"expected true or false, got 'yes'"),
    ],
)
def test_a_setting_that_is_near_gets_a_hint(write_study: Callable[..., Path], setting: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load(str(write_study()), [setting])


def test_the_hint_at_the_grid_is_what_one_may_type(write_study: Callable[..., Path]) -> None:
    _, cells = load(str(write_study()), ["grid={model.depth: [20,32]}"])
    assert {cell.config.model.depth for cell in cells} == {20, 32}


def test_an_absurd_grid_is_refused_after_its_first_hundred_mistakes(write_study: Callable[..., Path]) -> None:
    path = write_study(grid={"model.depth": list(range(9, 6_000, 6))})
    with pytest.raises(UserError) as error:
        load(str(path))
    assert len(error.value.args) == 101
    assert error.value.args[-1].endswith("over 100 mistakes; fix these first")


def test_of_many_mistakes_in_one_section_a_hundred_are_named(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("".join(f"k{number}: 1\n" for number in range(200)))
    with pytest.raises(UserError) as error:
        load(str(path))
    assert len(error.value.args) == 101
    assert error.value.args[-1] == "over 100 mistakes; fix these first"


def test_a_file_in_the_same_folder_is_named_where_it_is_near(write_study: Callable[..., Path]) -> None:
    write_study("mine.yaml")
    with pytest.raises(UserError, match=r"mine.yml: no such file \(did you mean 'mine.yaml'\?\)"):
        load("mine.yml")
    with pytest.raises(UserError, match=r"no shipped study; .* \(did you mean 'mine.yaml'\?\)"):
        load("mine")


def test_several_labels_may_be_chosen(write_study: Callable[..., Path]) -> None:
    _, cells = load(str(write_study(grid={"model.depth": [8, 14, 20]})))
    labels = list(dict.fromkeys(cell.label for cell in cells))
    assert [cell.label for cell in only_labels(cells, labels[:2])] == labels[:2]
    assert [cell.label for cell in only_labels(cells, [",".join(labels[:2])])] == labels[:2]
    with pytest.raises(UserError) as error:
        only_labels(cells, [labels[0], "one", "two"])
    assert [line.partition(":")[0] for line in error.value.args] == ["--only one", "--only two"]
