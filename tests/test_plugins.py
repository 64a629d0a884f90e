"""Plug-ins: blocks, optimisers and more from files of one's own, and what can be wrong with them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError

from resexp.config import ModelConfig, RunConfig, plugins, yaml_file
from resexp.config.nets import parse_net
from resexp.config.plugins import PluginRef
from resexp.config.study import SHIPPED, load, load_run
from resexp.data import Dataset, open_dataset
from resexp.device.concurrent import run_to_completion
from resexp.device.hardware import Hardware
from resexp.errors import UserError
from resexp.models import build_model
from resexp.models.summary import summarise_net
from resexp.paper import departures
from resexp.probes import PROBES
from resexp.probes.identity import why_not
from resexp.report.stats import runs_table
from resexp.runs.store import Run, StudyFolder
from resexp.sweeping import create
from resexp.training.probing import snapshot
from resexp.training.rehearsal import rehearse
from resexp.training.train import train
from resexp.training.trainer import Trainer
from resexp.utils.untrusted import parse_json
from tests.test_probes import subject as probe_subject
from tests.test_probes import take
from tests.test_training import CPU, after, assert_same, tiny

Cli = Callable[..., subprocess.CompletedProcess[str]]
EXAMPLES = SHIPPED / "plugins"
SHAPES = {"source": "shapes", "train_images": 200, "test_images": 100, "size": 8, "pad": 1}

HEAD = """
import torch
from resexp.config import Section
from resexp.config.plugins import register
from resexp.models.blocks import Block
"""


CUBE = """
@register("activation", "cube")
class Cube(torch.nn.Module):
    def forward(self, x):
        return torch.tanh(x) ** 3
"""


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plug-ins are loaded once per process; each test begins without any."""
    monkeypatch.delenv(plugins.VARIABLE, raising=False)
    forget()
    yield
    forget()


def forget() -> None:
    for known in (plugins._known, plugins._texts, plugins._loaded):
        known.clear()  # type: ignore[attr-defined]


def loaded(path: Path) -> None:
    plugins.add_files([str(path)])
    plugins.load()


def written(folder: Path, code: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(HEAD + code)
    return path


def study(folder: Path, **keys: object) -> Path:
    path = folder / "s.yaml"
    train = {"steps": 12, "batch_size": 20, "log_every": 3, "checkpoint_steps": 3, "device": "cpu"}
    base = {"name": "s", "data": SHAPES, "model": {"width": 4, "depth": 8}, "train": train}
    path.write_text(yaml.safe_dump({**base, **keys}))
    return path


def resexp(folder: Path, *words: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "resexp", *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "RESEXP_DATA": str(folder / "data")}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


# -- what a study may use ----------------------------------------------------------------------------------------------


def test_a_study_alone_runs_no_code(tmp_path: Path) -> None:
    written(tmp_path, "raise SystemExit('it ran')\n")
    path = study(tmp_path, plugins=["mine.py"])
    with pytest.raises(UserError, match=r"the study needs mine\.py, .* name it: --plugin mine\.py"):
        load(str(path))


def test_a_block_of_ones_own(tmp_path: Path) -> None:
    """Counted, labelled, a departure from the paper, and part of the signature with its options and its source."""
    loaded(EXAMPLES / "squeeze_excite.py")
    four, two = (parse_net(f"residual-20-block=squeeze_excite+reduction={n}", []) for n in (4, 2))
    assert four.name == "residual-20-block=squeeze_excite+reduction=4"
    assert parse_net("residual-20", ["model.block=squeeze_excite"]).config == four.config
    ours, plain = (summarise_net(net.config, 32, 32).parameters for net in (four, parse_net("residual-20", [])))
    # Two fully connected layers with biases per block: c -> c/4 -> c, three blocks of 16, 32 and 64 channels.
    assert ours - plain == sum(3 * (2 * c * (c // 4) + c // 4 + c) for c in (16, 32, 64))
    runs = [RunConfig(model=net.config) for net in (four, two)] + [RunConfig()]
    assert len({run.signature for run in runs}) == 3
    assert [str(d) for d in departures(runs[0], "cifar10")] == ["block squeeze_excite+reduction=4 instead of basic"]
    torch.manual_seed(0)
    model = build_model(four.config).eval()
    block = model.get_submodule("stages.0.0")
    x = torch.randn(2, 16, 8, 8)
    y = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))  # type: ignore[operator]
    weights = torch.sigmoid(block.excite(torch.relu(block.squeeze(y.mean((2, 3))))))  # type: ignore[operator]
    assert torch.allclose(block(x), torch.relu(y * weights[:, :, None, None] + x))


UNNAMED = """
from resexp.models.layers import conv, norm

@register("block", "unnamed")
class Unnamed(Block):
    def make_branch(self, config, place):
        self.body = torch.nn.Sequential(conv(config, 3, place.channels_in, place.channels, place.stride),
                                        norm(config, place.channels), torch.nn.ReLU())

    def branch(self, x):
        return self.body(x)

@register("block", "shifted")
class Shifted(Block):
    def make_branch(self, config, place):
        super().make_branch(config, place)
        self.extra = torch.nn.Conv2d(place.channels, place.channels, 3, padding=1)

    def branch(self, x):
        return self.extra(super().branch(x)) + 0.5
"""


def test_a_block_whose_layers_have_other_names_or_more_layers(tmp_path: Path) -> None:
    """It trains; what looks for names says which one is missing, and nothing takes another layer for it."""
    loaded(written(tmp_path, UNNAMED))
    unnamed, shifted = (ModelConfig(kind="residual", depth=8, width=4, block=name) for name in ("unnamed", "shifted"))
    for config in (unnamed, shifted):
        assert not PROBES["lesion"].why_not(config)
        net = probe_subject(block=config.block, kind="residual")
        assert [row["same"] for row in take("lesion", net)["without"]] == [True, False, False]
    assert PROBES["responses"].why_not(unnamed) == "block unnamed has no layer conv1"
    assert why_not(unnamed, unnamed.model_copy(update={"depth": 14})) == "block unnamed has no layer conv1"
    found = take("responses", probe_subject(block=shifted.block, kind="residual"))
    names = ["conv", *(f"stages.{stage}.0.conv{number}" for stage in range(3) for number in (1, 2))]
    assert [row["layer"] for row in found["layers"]] == names
    plain = shifted.model_copy(update={"kind": "plain", "shortcut": None})
    assert (
        why_not(plain, plain.model_copy(update={"depth": 14}))
        == "shifted is a plug-in's, and may change what it is given"
    )
    for key, value, says in (
        ("residual_init", "zero-gamma", "residual_init zero-gamma: block unnamed has no BN called bn2; add it"),
        ("norm", "fixup", "norm fixup: block unnamed needs conv1 to conv2, made by resexp.models.layers.conv"),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(says)}$"):
            summarise_net(unnamed.model_copy(update={key: value}), 8, 8)


def test_a_residual_block_that_is_no_identity_is_not_inserted(tmp_path: Path) -> None:
    written(tmp_path, UNNAMED)
    path = study(tmp_path, model={"width": 4, "depth": 8, "kind": "residual", "block": "shifted"}, plugins=["mine.py"])
    resexp(tmp_path, "sweep", path.name, "--plugin", "mine.py")
    (donor,) = (tmp_path / "results" / "s").glob("residual-8-*/seed0")
    said = resexp(tmp_path, "probe", "identity", str(donor), "--depth", "14", "--plugin", "mine.py", code=1)
    assert "block shifted is no identity where its last norm is zero; name a run of another block" in said


def test_a_changed_source_is_another_run(tmp_path: Path) -> None:
    code = CUBE
    signatures = []
    for name, text in (("a.py", code), ("b.py", code + "# changed\n")):
        plugins._known.clear()
        loaded(written(tmp_path, text, name))
        config = RunConfig(model=ModelConfig(activation="cube"))
        assert isinstance(config.model.activation, PluginRef)
        signatures.append(config.signature)
    assert signatures[0] != signatures[1]


def test_every_role_takes_a_plugin(tmp_path: Path) -> None:
    loaded(
        written(
            tmp_path,
            """
import numpy as np

@register("activation", "learned")
class Learned(torch.nn.PReLU): pass

@register("norm", "instance")
def instance(channels): return torch.nn.InstanceNorm2d(channels, affine=True)

@register("init", "small")
def small(weight): torch.nn.init.normal_(weight, std=0.01)

@register("shortcut", "pooled")
class Pooled(torch.nn.Module):
    def __init__(self, channels_in, channels_out, stride):
        super().__init__()
        self.stride, self.project = stride, torch.nn.Conv2d(channels_in, channels_out, 1)
    def forward(self, x): return self.project(torch.nn.functional.avg_pool2d(x, self.stride))

@register("optimizer", "plain_sgd")
def plain_sgd(parameters, rate, train): return torch.optim.SGD(parameters, lr=rate)

@register("schedule", "square")
def square(step, steps): return np.float32((1 - step / steps) ** 2)
""",
        )
    )
    model = {"activation": "learned", "norm": "instance", "init": "small", "shortcut": "pooled", "depth": 8}
    train = {"optimizer": "plain_sgd", "schedule": "square", "milestones": []}
    config = RunConfig.model_validate({"model": model, "train": train})
    rehearse(config, 16, 16, 10)
    net = build_model(config.model)
    assert net.get_submodule("stages.0.0.conv1").weight.std().item() == pytest.approx(0.01, rel=0.1)  # type: ignore[union-attr,operator]
    assert len({id(module) for module in net.modules() if isinstance(module, torch.nn.PReLU)}) == 7
    assert set(config.plugin_refs) == {*model, *train} - {"depth", "milestones"}
    assert RunConfig.model_validate(json.loads(config.model_dump_json())) == config


def test_an_optimiser_gets_the_rate_of_its_depth(tmp_path: Path) -> None:
    """In training as in the rehearsal: a number, whatever the study says."""
    loaded(
        written(
            tmp_path,
            """
@register("optimizer", "reads")
def reads(parameters, rate, train): return torch.optim.SGD(parameters, lr=rate, momentum=1 - train.lr)
""",
        )
    )
    lr = {"at_depth": 20, "value": 0.1, "power": -1.0}
    config = tiny(model={"depth": 8}, train={"optimizer": "reads", "lr": lr})
    trainer = Trainer(config, open_dataset(config.data), Hardware(CPU, "fp32"))
    assert trainer.optimizer.param_groups[0]["momentum"] == pytest.approx(0.75)
    trainer.close()


# -- by the command, and in other processes ----------------------------------------------------------------------------


def test_a_named_plugin_replaces_another_with_its_options(tmp_path: Path) -> None:
    """Options without a name change those of the plug-in that is there."""
    loaded(EXAMPLES / "squeeze_excite.py")
    loaded(written(tmp_path, '@register("block", "mine")\nclass Mine(Block): pass\n'))
    path = study(tmp_path, model={"block": {"name": "squeeze_excite", "reduction": 2}})
    blocks = [
        load(str(path), list(settings))[1][0].config.model.block
        for settings in ([], ["model.block={name: mine}"], ["model.block.reduction=8"])
    ]
    assert list(map(str, blocks)) == ["squeeze_excite+reduction=2", "mine", "squeeze_excite+reduction=8"]


def test_a_named_executor_keeps_what_else_is_known_of_it(tmp_path: Path) -> None:
    path = study(tmp_path, executor={"jobs": 3, "ray": {"cpus": 2.0}})
    executor = load(str(path), ["executor={name: ray}"])[0].executor
    assert (executor.name, executor.jobs, executor.ray.cpus) == ("ray", 3, 2.0)


@pytest.mark.parametrize("name", ["squeeze_excite", "lion", "gratings"])
def test_the_examples_train_and_are_reported_without_their_code(name: str, tmp_path: Path, here: Cli) -> None:
    """In processes that the sweep starts, and in its own."""
    words = ["--set", "train.steps=6", "--set", "train.log_every=2", "--set", "model.width=2", "--set", "seeds=[0]"]
    own = "data.source={name: gratings, train: 200, test: 100}"
    words += ["--set", own if name == "gratings" else f"data={json.dumps(SHAPES)}"]
    words += ["--set", "train.warmup_steps=3" if name == "lion" else "train.milestones=[]"]
    words = ["sweep", f"plugins/{name}", "--plugin", str(EXAMPLES / f"{name}.py"), *words]
    where = ["--jobs", "2"] if name == "squeeze_excite" else ["--executor", "debug"]
    assert here(*words, *where).returncode == 0
    runs = [Run(path.parent) for path in (tmp_path / "results" / name).glob("*/seed0/config.yaml")]
    plugin_refs = {run.folder: load_run(run.config_path).plugin_refs for run in runs}
    assert sum(bool(custom) for custom in plugin_refs.values()) == 4
    source = (EXAMPLES / f"{name}.py").read_text()
    for run in runs:
        manifest = run.manifest()
        assert manifest
        assert list(manifest.plugins.values()) == ([source] if plugin_refs[run.folder] else [])
    forget()
    assert here("report", f"results/{name}").returncode == 0
    page = (tmp_path / f"results/{name}/report/deviations.md").read_text()
    shown = {"squeeze_excite": "squeeze_excite+reduction=4", "lion": "lion+beta=0.99", "gratings": "gratings+noise=0.3"}
    assert shown[name] in page


@pytest.mark.slow
def test_the_guide_works_when_followed_word_by_word(tmp_path: Path, here: Cli) -> None:
    """Its file, its study and its commands, with fewer steps of smaller nets."""
    guide = (EXAMPLES / "README.md").read_text()
    blocks = dict(re.findall(r"```(python|yaml)\n(.*?)```", guide, re.DOTALL))
    (tmp_path / "scaled.py").write_text(blocks["python"])
    small = {
        "data": SHAPES,
        "model": {"width": 2},
        "train": {"steps": 6, "milestones": [], "log_every": 2},
        "seeds": [0],
    }
    (tmp_path / "scaled.yaml").write_text(blocks["yaml"] + yaml.safe_dump(small))
    commands = [line for block in re.findall(r"```sh\n(.*?)```", guide, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 3
    describe, sweep, report = (command.removesuffix(" --open").split()[1:] for command in commands)
    said = [here(*describe).stdout, here(*sweep, "--executor", "debug").stdout]
    forget()
    said.append(here(*report).stdout)
    assert "residual-20-block=scaled+begin=1.0" in said[0]
    assert "8 trained" in said[1]
    assert "report/index.html" in said[2]


@pytest.mark.slow
def test_a_killed_sweep_resumes_bit_for_bit(tmp_path: Path, here: Cli) -> None:
    path = study(
        tmp_path, plugins=["lion.py"], seeds=[0, 1],
        train={
            "steps": 40, "batch_size": 20, "log_every": 3, "checkpoint_steps": 3, "device": "cpu", "lr": 0.001,
            "optimizer": "lion", "schedule": "linear", "milestones": [],
        },
    )  # fmt: skip
    words = ["sweep", "--config", str(path), "--plugin", str(EXAMPLES / "lion.py"), "--jobs", "2"]
    assert here(*words, "--results", "whole").returncode == 0
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "RESEXP_DATA": str(tmp_path / "data")}
    sweep = subprocess.Popen(
        [sys.executable, "-m", "resexp", *words], cwd=tmp_path, env=environment, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("results/s/*/seed*/checkpoint.prev.pt")) and time.monotonic() < deadline:
        assert sweep.poll() is None
        time.sleep(0.005)
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.wait()
    assert here(*words).returncode == 0
    for whole in sorted(tmp_path.glob("whole/s/*/seed*/logits.npz")):
        resumed = tmp_path / "results" / whole.relative_to(tmp_path / "whole")
        with np.load(whole) as a, np.load(resumed) as b:
            assert np.array_equal(a["logits"], b["logits"])


COUNTED = """
class Counted(torch.optim.Optimizer):
    def __init__(self, parameters, rate):
        super().__init__(parameters, {"lr": rate, "calls": 0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["calls"] += 1
            for parameter in group["params"]:
                parameter -= group["lr"] / group["calls"] * parameter.grad

@register("optimizer", "counted")
def counted(parameters, rate, train): return Counted(parameters, rate)
"""


def test_what_an_optimiser_keeps_in_its_groups_is_continued(tmp_path: Path) -> None:
    loaded(written(tmp_path, COUNTED))
    train_section = {"steps": 12, "batch_size": 20, "log_every": 3, "device": "cpu", "optimizer": "counted", "lr": 0.5}
    config = load(str(study(tmp_path, train=train_section)))[1][0].config
    whole, stopped = (Run(tmp_path / name / config.folder) for name in ("whole", "stopped"))
    for run in (whole, stopped):
        run.create(config)
    assert train(whole).state == "finished"
    assert train(stopped, stop=after(5)).state == "interrupted"
    assert train(stopped).state == "finished"
    assert_same(whole, stopped)


def test_a_run_whose_plugin_was_changed_is_not_continued(tmp_path: Path, here: Cli) -> None:
    code = CUBE
    mine = written(tmp_path, code)
    path = study(tmp_path, model={"width": 4, "depth": 8, "activation": "cube"})
    words = ["--config", str(path), "--plugin", "mine.py"]
    assert here("sweep", *words, "--executor", "debug", "--set", "train.lr=1e-4").returncode == 0
    forget()
    (folder,) = tmp_path.glob("results/s/*/seed0")
    status = parse_json((folder / "status.json").read_bytes())
    assert status["state"] == "finished"
    (folder / "status.json").unlink()
    mine.write_text(mine.read_text() + "# changed\n")
    done = here("train", folder, "--plugin", "mine.py")
    assert done.returncode == 2
    assert "mine.py: changed since the run began (activation 'cube' had digest" in done.stderr
    forget()
    done = here("train", folder)
    assert done.returncode == 2
    assert "activation 'cube' is of a plug-in that is not loaded; name its file: --plugin FILE" in done.stderr


POWER = """
class Options(Section):
    power: float = -0.5
    {}

@register("activation", "power", Options)
class Power(torch.nn.Module):
    def __init__(self, power, **more): super().__init__(); self.power = power
    def forward(self, x): return (x.abs() + 1) ** self.power
"""


def test_exported_weights_know_the_plugin_of_their_net(tmp_path: Path, here: Cli) -> None:
    code = '\n@register("activation", "mine")\nclass Mine(torch.nn.PReLU): pass\n'
    plugin = written(tmp_path, code)
    words = ["--plugin", plugin, "--set", "executor.name=debug"]
    here("sweep", study(tmp_path, model={"width": 2, "depth": 8, "activation": "mine"}), *words)
    (run,) = (tmp_path / "results").glob("*/*/seed0")
    here("export", run, "--to", "net.pt", "--plugin", plugin)
    assert here("evaluate", "net.pt", "--plugin", plugin).returncode == 0
    written(tmp_path, code.replace("PReLU", "ReLU"))
    forget()
    done = here("evaluate", "net.pt", "--plugin", plugin)
    assert done.returncode == 2
    assert f"{plugin}: changed since the run began (activation 'mine' had digest " in done.stderr


def test_runs_are_read_whose_plugin_has_got_an_option_since(tmp_path: Path) -> None:
    loaded(written(tmp_path, POWER.format("")))
    config = RunConfig(model=ModelConfig(activation="power"))
    (path := tmp_path / config.folder / "config.yaml").parent.mkdir(parents=True)
    path.write_text(yaml_file.dump(config.model_dump(mode="json")))
    forget()
    loaded(written(tmp_path, POWER.format("more: int = 1")))
    assert load_run(path) == config
    assert RunConfig(model=ModelConfig(activation="power")).signature != config.signature


def test_a_negative_option_is_part_of_a_name(tmp_path: Path) -> None:
    loaded(written(tmp_path, POWER.format("")))
    net = parse_net("residual-20", ["model.activation={name: power, power: -1e-05}"])
    assert net.name == "residual-20-activation=power+power=-1e-05"
    assert parse_net(net.name, []) == net


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x y", '"x y"'),
        ("12", '"12"'),
        ("null", '"null"'),
        ("a+more=b", '"a+more=b"'),
        (None, "null"),
        (1e16, "1e+16"),
        ([1, [-2, "a b"]], '[1,[-2,"a b"]]'),
        ({"z": [True], "a-b": 'q"'}, '{"a-b":"q\\"","z":[true]}'),
    ],
)
def test_whatever_an_option_is_the_name_of_its_net_is_read_back(value: object, shown: str, tmp_path: Path) -> None:
    options = "more: object = None\n    sizes: tuple[int, ...] = (1,)"
    loaded(written(tmp_path, POWER.format(options)))
    net = parse_net("residual-20", [f"model.activation={json.dumps({'name': 'power', 'more': value})}"])
    assert net.name == f"residual-20-activation=power+more={shown}+power=-0.5+sizes=[1]"
    assert parse_net(net.name, []) == net
    assert ModelConfig.model_validate(net.config.model_dump(mode="json")) == net.config
    assert len({net, parse_net(net.name, [])}) == 1


@pytest.mark.parametrize("layers", [1, 4])
def test_imagenets_nets_have_blocks_of_two_or_three_layers(layers: int, tmp_path: Path) -> None:
    loaded(written(tmp_path, f"@register('block', 'mine')\nclass Mine(Block):\n    layers = {layers}\n"))
    with pytest.raises(ValidationError, match=f"blocks of 2 or 3 layers, and this one has {layers}"):
        ModelConfig(variant="imagenet", block="mine")


def test_every_command_that_reads_a_study_takes_its_plugin(tmp_path: Path, here: Cli) -> None:
    written(tmp_path, CUBE)
    path = study(tmp_path, plugins=["mine.py"], model={"width": 4, "depth": 8, "activation": "cube"})
    assert here("data", "check", path, "--plugin", "mine.py").returncode == 0
    forget()
    done = here("data", "prepare", path, "--plugin", "mine.py")
    assert (done.returncode, "data.source is shapes, and this is for imagenet" in done.stderr) == (2, True)
    done = here("bench", "--set", f"extends={path}", "--plugin", "absent.py")
    assert (done.returncode, "absent.py" in done.stderr) == (2, True)


def on_an_executor(study: Callable[..., Path], sweep: Callable[..., tuple[int, str]]) -> None:
    """A study of a plug-in trains there as on this machine, bit for bit; its runs hold the source that trained them,
    and its report needs no plug-in."""
    own = {"name": "squeeze_excite", "reduction": 2}
    path = study(grid={"model.block": ["basic", own]}, plugins=["squeeze_excite.py"])
    words = ["--config", str(path), "--plugin", str(EXAMPLES / "squeeze_excite.py")]
    resexp(Path(), "sweep", *words, "--executor", "local", "--results", "local", "--jobs", "2")
    code, said = sweep(*words)
    assert code == 0, said
    assert "2 trained, 0 finished before, 0 not finished" in " ".join(said.split())
    sources = []
    for local in sorted(Path("local/tiny").glob("*/seed0")):
        run = Run("results/tiny" / local.relative_to("local/tiny"))
        assert_same(run, Run(local))
        manifest = run.manifest()
        assert manifest
        sources += manifest.plugins.values()
    assert sources == [(EXAMPLES / "squeeze_excite.py").read_text()]
    resexp(Path(), "report", "results/tiny")
    assert "squeeze_excite+reduction=2" in Path("results/tiny/report/deviations.md").read_text()


# -- what can be wrong with a plug-in ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def broken(:\n", r"mine\.py:6: does not import: SyntaxError"),
        ("import nowhere_to_be_found\n", r"mine\.py:6: does not import: ModuleNotFoundError: No module named"),
        ("1 / 0\n", r"mine\.py:6: does not import: ZeroDivisionError"),
        ("register('block', 'basic')(Block)\n", "block 'basic' is taken by resexp; choose another name"),
        ("register('block', 'a')(Block)\nregister('block', 'a')(Block)\n", r"block 'a' is taken by .*mine\.py"),
        ("register('blok', 'a')(Block)\n", "no role 'blok'; there are block, shortcut, activation"),
        ("register('block', 'a b')(Block)\n", "'a b': not a name of letters, digits and '_'"),
    ],
)
def test_a_file_that_is_no_plugin_is_one_line(code: str, says: str, tmp_path: Path) -> None:
    plugins.add_files([str(written(tmp_path, code))])
    for _ in range(2):  # whoever asks
        with pytest.raises(UserError, match=says) as error:
            plugins.load()
        assert len(error.value.args) == 1


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    plugins.add_files([str(tmp_path / "nowhere.py")])
    with pytest.raises(UserError, match=r"nowhere\.py: No such file or directory; a plug-in is a Python file"):
        plugins.load()


def test_a_pipe_in_place_of_a_plugin_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mine.py")
    plugins.add_files([str(tmp_path / "mine.py")])
    with pytest.raises(UserError, match=r"mine\.py: not a plain file"):
        plugins.load()


def test_a_path_that_the_variable_cannot_hold_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a:b/mine\.py: the path of a plug-in holds no ':'; rename or move it"):
        plugins.add_files([str(tmp_path / "a:b/mine.py")])


BLOCK = """
@register("block", "mine")
class Mine(Block):
    def branch(self, x):
        {}
"""


def test_a_plug_in_that_registers_nothing_is_one_line(tmp_path: Path) -> None:
    path = written(tmp_path, "class Mine(Block):\n    pass\n")
    with pytest.raises(UserError, match=r"mine\.py: registers nothing; put @register"):
        loaded(path)


def test_a_block_without_layers_is_one_line(tmp_path: Path) -> None:
    loaded(written(tmp_path, BLOCK.format("return x") + "    layers = 0\n"))
    with pytest.raises(UserError, match=r"mine\.py: block mine: layers is 0; write a whole number above 0"):
        load(str(study(tmp_path, model={"block": "mine"})))


def test_the_depth_of_a_block_with_other_convolutions_is_remarked_on(tmp_path: Path) -> None:
    more = (
        BLOCK.format("return self.conv3(super().branch(x))")
        + """
    def make_branch(self, config, place):
        super().make_branch(config, place)
        self.conv3 = torch.nn.Conv2d(place.channels, place.channels, 1)
"""
    )
    path = written(tmp_path, more)
    loaded(path)
    config = RunConfig.model_validate({"model": {"depth": 8, "block": "mine", "shortcut": "B"}})
    says = f"{path}: block mine has 3 convolutions, and counts as 2 layers of the net's depth (`layers`)"
    assert rehearse(config, 16, 16, 10) == says
    (tmp_path / "again").mkdir()
    loaded(written(tmp_path / "again", more.replace('"mine"', '"deeper"') + "    layers = 3\n"))
    config = RunConfig.model_validate({"model": {"depth": 11, "block": "deeper", "shortcut": "B"}})
    assert rehearse(config, 16, 16, 10) == ""


REMEMBERS = """
@register("optimizer", "mine")
class Mine(torch.optim.Optimizer):
    def __init__(self, parameters, rate, train):
        super().__init__(parameters, {{"lr": rate}})
        self.mine = {{}}
    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                {}
                p -= group["lr"] * m
"""


@pytest.mark.parametrize(
    ("code", "goes"),
    [
        ("m = self.state[p].setdefault('m', torch.zeros_like(p)).mul_(0.9).add_(p.grad)", True),
        ("m = p.grad / (1 + group.setdefault('t', 0)); group['t'] += 1 / len(group['params'])", True),
        ("m = self.mine.setdefault(p, torch.zeros_like(p)).mul_(0.9).add_(p.grad)", False),
        ("m = p.grad + 0.01 * torch.randn_like(p)", False),
    ],
)
def test_what_an_optimiser_remembers_must_be_in_a_checkpoint(tmp_path: Path, code: str, goes: bool) -> None:
    loaded(written(tmp_path, REMEMBERS.format(code)))
    config = RunConfig.model_validate({"model": {"depth": 8}, "train": {"optimizer": "mine"}})
    if goes:
        rehearse(config, 16, 16, 10)
        return
    with pytest.raises(UserError, match=r"keep what it remembers in self\.state or in its groups"):
        rehearse(config, 16, 16, 10)


FROZEN = """
    def make_branch(self, config, place):
        super().make_branch(config, place)
        self.k = torch.nn.Parameter(torch.ones(()), requires_grad=False)
"""


@pytest.mark.parametrize(
    ("code", "keys", "says"),
    [
        (
            BLOCK.format("return super().branch(x)[:, :1]"),
            {"kind": "plain"},
            r"stages\.0\.0 returns \(4, 1, 16, 16\), and",
        ),
        (BLOCK.format("return x * 0"), {"depth": 14}, "block mine: RuntimeError: The size of tensor a"),
        (BLOCK.format("return super().branch(x).detach()"), {"kind": "plain"}, "no gradient|RuntimeError"),
        (BLOCK.format("return super().branch(x) + self.unknown"), {}, "AttributeError: .*unknown"),
        (BLOCK.format("return super().branch(x) / 0"), {}, "not finite in the first step"),
        ("register('block', 'mine')(torch.nn.ReLU)\n", {}, "must be a class derived from"),
        (BLOCK.format("return torch.nn.functional.dropout(super().branch(x))"), {}, "draws PyTorch's random numbers"),
        (BLOCK.format("return super().branch(x * self.k)") + FROZEN, {}, r"stages\.0\.0\.k is frozen .*as a buffer"),
        (BLOCK.format("self.n = getattr(self, 'n', 0) + 1; return super().branch(x) * self.n"), {}, "as a .* buffer"),
        (BLOCK.format("return x"), {"kind": "preact"}, "is for plain and residual nets, and model.kind is preact"),
    ],
)
def test_a_block_that_does_not_work_is_one_line(code: str, keys: dict[str, object], says: str, tmp_path: Path) -> None:
    loaded(written(tmp_path, code))
    with pytest.raises(UserError, match=says) as error:
        rehearse(RunConfig.model_validate({"model": {"depth": 8, "block": "mine", **keys}}), 16, 16, 10)
    assert len(error.value.args) == 1
    assert "mine.py" in error.value.args[0]


GIVEN = """
import numpy as np
@register("data", "mine")
def mine():
    x, y = np.zeros((20, 8, 8, 3), np.uint8), np.arange(20) % 2
    x[:] = np.arange(20)[:, None, None, None]
    given = dict(classes=["a", "b"], train_images=x, train_labels=y, test_images=x + 100, test_labels=y)
    {}
    return given
"""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("given = None", "data mine: returns something else than a mapping with classes, train_images"),
        ("given['classes'] = ['a', 'a']", "returns 2 class names; return two or more, all different"),
        ("given['classes'] = 10", "classes is 10; return a list of names"),
        (r"given['classes'] = ['a\x1b[31m', 'b']", r"the name of the class 'a\\x1b\[31m' can't be shown; rename it"),
        (r"given['classes'] = ['a\udcff', 'b']", r"the name of the class 'a\\udcff' can't be shown; rename it"),
        ("given['train_images'] = [x[0], x[0, :4]]", "train_images or train_labels is no array; return images of one"),
        ("given['train_images'] = x[:, :0]", r"train_images has shape \(20, 0, 8, 3\) and type uint8; return uint8"),
        ("given['train_images'] = x / 255", r"train_images has shape \(20, 8, 8, 3\) and type float64; return uint8"),
        ("given['test_images'] = x[..., 0]", r"test_images has shape \(20, 8, 8\) and type uint8; return uint8"),
        ("given['test_labels'] = y[:3]", r"test_labels has shape \(3,\) and type int64; return 20 integers"),
        ("given['train_labels'] = y + 1", "train_labels are from 1 to 2; there are 2 classes"),
        ("given['test_images'] = x[:, :4, :4]", "training and test images of different sizes"),
        ("1 / 0", "data mine: ZeroDivisionError: division by zero"),
    ],
)
def test_data_that_are_no_image_set_are_one_line(change: str, says: str, tmp_path: Path) -> None:
    loaded(written(tmp_path, GIVEN.format(change)))
    config = RunConfig.model_validate({"data": {"source": "mine"}})
    with pytest.raises(UserError, match=says) as error:
        open_dataset(config.data)
    assert len(error.value.args) == 1
    assert "mine.py" in error.value.args[0]


def test_data_of_ones_own_are_what_was_given(tmp_path: Path) -> None:
    loaded(written(tmp_path, GIVEN.format("")))
    dataset = open_dataset(RunConfig.model_validate({"data": {"source": "mine"}}).data)
    assert isinstance(dataset, Dataset)
    assert dataset.name == "mine"
    assert dataset.train()[0][:, 0, 0, 0].tolist() == list(range(20))
    assert dataset.test()[1].tolist() == [0, 1] * 10


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"optimizer": {"name": "mine", "speed": 3}}, "mine has no option speed; it has beta"),
        ({"optimizer": {"name": "mine", "beta": "x"}}, "mine: beta: "),
        ({"schedule": {"name": "square", "power": 3}}, "square has no option power; it has none"),
        (
            {"optimizer": "mien"},
            r"allowed: sgd, nesterov, adamw, muon, mine, local, foreign, fixed, nothing \(did you mean 'mine'\?\)",
        ),
        ({"schedule": "wrong", "milestones": []}, r"schedule wrong: factor None at step 0; return a number >= 0"),
        ({"optimizer": "local"}, r"optimizer local: its state can't be saved and read again \(AttributeError\); keep"),
        ({"optimizer": "foreign"}, r"optimizer foreign: its state can't be saved and read again \(UnpicklingError\)"),
        (
            {"optimizer": "fixed"},
            "optimizer fixed: the optimizer has a number as lr, which no schedule changes; give it",
        ),
        ({"optimizer": "nothing"}, "optimizer nothing: returns a NoneType, not an Optimizer"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line(section: dict[str, object], says: str, tmp_path: Path) -> None:
    loaded(
        written(
            tmp_path,
            """
class Options(Section):
    beta: float = 0.5

@register("optimizer", "mine", Options)
def mine(parameters, rate, train, beta): return torch.optim.SGD(parameters, lr=rate)

class Keeping(torch.optim.SGD):
    def step(self):
        super().step()
        self.state[self.param_groups[0]["params"][0]]["kept"] = self.kept

@register("optimizer", "local")
def local(parameters, rate, train):
    made = Keeping(parameters, lr=rate)
    made.kept = lambda: 0
    return made

@register("optimizer", "foreign")
def foreign(parameters, rate, train):
    made = Keeping(parameters, lr=rate)
    made.kept = Options()
    return made

@register("optimizer", "fixed")
def fixed(parameters, rate, train): return torch.optim.SGD(parameters, lr=train.lr)

@register("optimizer", "nothing")
def nothing(parameters, rate, train): return None

@register("schedule", "square")
def square(step, steps): return 1.0

@register("schedule", "wrong")
def wrong(step, steps): return None
""",
        )
    )
    path = study(tmp_path, train={"steps": 4, **section})
    with pytest.raises(UserError, match=says):
        rehearse(load(str(path))[1][0].config, 8, 8, 10)


HALF = """
@register("shortcut", "half")
class Half(torch.nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv = torch.nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)

    def forward(self, x):
        return self.conv(x)
"""


OWN = """
@register("block", "own")
class Own(Block):
    def forward(self, x):
        y = self.act(self.branch(x))
        return y if self.shortcut is None else y + self.shortcut(x)
"""


def test_a_block_with_a_forward_of_its_own_is_not_taken_apart(tmp_path: Path) -> None:
    loaded(written(tmp_path, OWN))
    for name in ("lesion", "branches"):
        assert PROBES[name].why_not(tiny(model={"block": "own"}).model) == "block own has a forward of its own"
        assert PROBES[name].why_not(tiny().model) == ""


SHARED = """
@register("block", "shared")
class Shared(Block):
    def make_branch(self, config, place):
        super().make_branch(config, place)
        if place.stride == 1:
            self.conv2 = self.conv1
        self.extra = torch.nn.Parameter(torch.ones(7))

    def branch(self, x):
        return super().branch(x) + self.extra.sum()
"""


def test_a_parameter_counts_once_in_the_table_of_layers(tmp_path: Path) -> None:
    loaded(written(tmp_path, SHARED))
    config = tiny(model={"kind": "plain", "block": "shared"}).model
    counted = sum(layer.parameters for layer in summarise_net(config, 16, 16).layers)
    assert counted == sum(p.numel() for p in build_model(config, 10).parameters())


def test_a_plugin_that_exits_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mine.py:\d+: does not import: SystemExit: 3"):
        loaded(written(tmp_path, "raise SystemExit(3)\n"))


def test_a_plugin_has_a_column_with_its_name(tmp_path: Path) -> None:
    loaded(written(tmp_path, OWN))
    grid = {"model.kind": ["plain"], "model.block": ["basic", "own"]}
    loaded_study, cells = load(str(study(tmp_path, grid=grid)))
    for cell in cells:
        assert train(create(loaded_study, cell, tmp_path / "results")).state == "finished"
    assert list(runs_table(StudyFolder(tmp_path / "results/s"))["model.block"]) == ["basic", "own"]


def test_convolutions_of_a_shortcut_are_no_layers_of_the_branch(tmp_path: Path) -> None:
    loaded(written(tmp_path, HALF))
    config = tiny(model={"shortcut": "half"})
    trainer = Trainer(config, open_dataset(config.data), Hardware(CPU, "fp32"))
    probing = PROBES["responses"].measure(snapshot(trainer))
    layers = run_to_completion(probing)["layers"]
    assert [row["layer"] for row in layers][:3] == ["conv", "stages.0.0.conv1", "stages.0.0.conv2"]
    assert len(layers) == 7


def test_what_a_plugin_passes_on_is_not_known(tmp_path: Path) -> None:
    loaded(written(tmp_path, HALF))
    nets = [tiny(model={"shortcut": "half", "depth": depth}).model for depth in (8, 14)]
    assert "half is a plug-in's" in why_not(*nets)


def test_a_net_that_reads_its_numbers_can_not_be_counted(tmp_path: Path, here: Cli) -> None:
    """It trains, but `describe` and the estimate of memory build nets without numbers."""
    init = """
@register("init", "unit")
def unit(weight):
    torch.nn.init.normal_(weight)
    weight.data.div_(weight.std().item())
"""
    done = here("describe", "residual-8-init=unit", "--plugin", written(tmp_path, init))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "unit: can't be counted on PyTorch's meta device" in done.stderr
