"""The schema of a study file and of one run, with every default and every limit in one place.

The defaults are the paper's recipe for CIFAR-10 (He et al. 2015, section 4.2), so a study states only what differs.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)


class Section(BaseModel):
    """A part of a study file: unknown keys are refused and no value is converted ('5' is not 5)."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    mechanics: ClassVar[frozenset[str]] = frozenset()
    """Fields that say how to run, not what is measured; they stay out of the signature."""
    added: ClassVar[dict[str, Any]] = {}
    """Fields that came after the first release, each with the value that means "as before": a run that has it keeps the
    signature, and so the folder, that it always had."""

    def science(self) -> dict[str, Any]:
        """The fields that change what is measured."""
        fields = self.model_dump(mode="json", exclude=set(self.mechanics))
        return {name: value for name, value in fields.items() if name not in self.added or value != self.added[name]}


class _AnyData(Section):
    mechanics = frozenset({"path"})

    split: Literal["full", "holdout"] = "full"
    """`full` trains on all training images; `holdout` keeps 10 % of them for validation (the paper's 45k/5k)."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Which images are held out; the same for every run of the study."""
    resize: Annotated[int, Field(ge=4, le=512, multiple_of=4)] | None = None
    """Resize images to this many pixels a side (antialiased). For small machines; changes the experiment."""
    pad: Annotated[int, Field(ge=0, le=64)] = 4
    """Zero padding in pixels on each side before the random crop; 0 turns cropping off."""
    flip: bool = True
    """Flip half of the training images horizontally."""


class Cifar10Data(_AnyData):
    """The official CIFAR-10 archive; `resexp data fetch` gets it."""

    source: Literal["cifar10"] = "cifar10"
    path: str | None = None
    """Where cifar-10-python.tar.gz lies, if not in the data folder."""


class FolderData(_AnyData):
    """Images in `train/<class>/` and `test/<class>/`, in a folder or a .tar, .tar.gz or .zip of one."""

    source: Literal["folder"]
    path: str
    """The folder or archive, relative to where the command is run."""


class ShapesData(_AnyData):
    """Procedural images: coloured, textured shapes in ten classes; needs no download."""

    source: Literal["shapes"]
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the image generator."""
    train_images: Annotated[int, Field(ge=100, le=1_000_000)] = 5000
    """Number of training images."""
    test_images: Annotated[int, Field(ge=100, le=1_000_000)] = 1000
    """Number of test images."""
    size: Annotated[int, Field(ge=8, le=128, multiple_of=4)] = 16
    """Pixels a side."""


DataConfig = Annotated[Cifar10Data | FolderData | ShapesData, Field(discriminator="source")]


class ModelConfig(Section):
    """A net of the paper's CIFAR family: 6n+2 layers in three stages (section 4.2)."""

    kind: Literal["plain", "residual"] = "residual"
    """`plain` has no shortcuts; `residual` adds one around each pair of 3x3 convolutions."""
    depth: Annotated[int, Field(le=10_000)] = 20
    """Number of weighted layers, 6n+2."""
    width: Annotated[int, Field(ge=1, le=1024)] = 16
    """Filters in the first stage; the second has twice, the third four times as many. Paper: 16."""
    shortcut: Literal["A", "B", "C"] | None = Field(
        default_factory=lambda m: "A" if m.get("kind") == "residual" else None
    )
    """Where dimensions change: `A` identity with zero padding (the paper's choice on CIFAR), `B` projection; `C`
    projects everywhere. A plain net has none."""

    @field_validator("depth")
    @classmethod
    def _depth_is_6n_plus_2(cls, depth: int) -> int:
        if (depth - 2) % 6 or depth < 8:
            below = max(8, (depth - 2) // 6 * 6 + 2)
            raise ValueError(f"must be 6n+2; the nearest are {below} and {below + 6}")
        return depth

    @field_validator("shortcut")
    @classmethod
    def _plain_has_no_shortcut(cls, shortcut: str | None, info: ValidationInfo) -> str | None:
        kind = info.data.get("kind")
        if kind == "plain" and shortcut is not None:
            raise ValueError("a plain net has no shortcut; leave it out, or set model.kind to residual")
        if kind == "residual" and shortcut is None:
            raise ValueError("a residual net needs a shortcut: 'A', 'B' or 'C'")
        return shortcut


def _paper_milestones(train: dict[str, Any]) -> tuple[int, ...]:
    steps = train.get("steps", 0)  # not there if it is what is wrong
    return tuple(sorted({steps // 2, steps * 3 // 4} - {0}))


class TrainConfig(Section):
    """The recipe. A step is one update on one batch (the paper's iteration)."""

    mechanics = frozenset({"log_every", "checkpoint_steps", "checkpoint_seconds", "device", "eager", "compile"})
    added = {"bn_images": None}

    steps: Annotated[int, Field(ge=1)] = 64_000
    """Number of updates."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Images per step."""
    lr: Annotated[float, Field(gt=0)] = 0.1
    """Initial learning rate."""
    milestones: Annotated[tuple[int, ...], Field(strict=False)] = Field(default_factory=_paper_milestones)
    """Steps at which the rate is multiplied by gamma. Default: at 1/2 and 3/4 of the steps (32k and 48k of 64k)."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor at each milestone."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """SGD momentum."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """L2 penalty on all parameters."""
    warmup_lr: Annotated[float, Field(gt=0)] | None = None
    """Train at this rate until the running training error is under `warmup_until`. Paper: 0.01, for depth 110 only."""
    warmup_until: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Running training error (a fraction) that ends the warm-up."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 on a GPU that has it, else fp32. fp16 trains with a loss scaler."""
    eval_every: Annotated[int, Field(ge=1)] = 4000
    """Steps between evaluations (clean training error; validation error with `split: holdout`). Always at the end."""
    bn_images: Annotated[int, Field(ge=2)] | None = None
    """Recompute BN's statistics over this many training images once training has ended, as for the paper's released
    models. Default: keep the moving averages."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d{1,3})?)$")] = "auto"
    """`auto` takes cuda, else mps, else cpu."""
    eager: bool = False
    """Launch every kernel from Python instead of replaying a step as one CUDA graph. For debugging and comparison."""
    compile: bool = False
    """Compile each shape of block with torch.compile. Slower on a CPU; on a GPU see `resexp bench --compile`."""
    log_every: Annotated[int, Field(ge=1)] = 100
    """Steps between lines of metrics; each is the mean over the steps since the last."""
    checkpoint_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps between checkpoints, in addition to checkpoint_seconds."""
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Seconds between checkpoints."""

    @field_validator("milestones")
    @classmethod
    def _milestones_within_steps(cls, milestones: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        steps = info.data.get("steps")
        if any(m <= 0 for m in milestones) or list(milestones) != sorted(set(milestones)):
            raise ValueError("must be positive and increasing")
        if steps is not None and milestones and milestones[-1] >= steps:
            raise ValueError(
                f"{milestones[-1]} is not below train.steps, {steps}; leave it out for 1/2 and 3/4 of the steps"
            )
        return milestones


Seed = Annotated[int, Field(ge=0, lt=2**63)]


class RunConfig(Section):
    """One cell of the grid with one seed: everything that a run folder needs to know."""

    data: DataConfig = Cifar10Data()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    seed: Seed = 0

    @property
    def signature(self) -> str:
        """Eight hex digits over the fields that change the science: defaults included, mechanics and seed left out."""
        science = {"data": self.data.science(), "model": self.model.science(), "train": self.train.science()}
        return hashlib.sha256(json.dumps(science, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def cost(self) -> float:
        """Relative training time: steps x batch x depth x width²."""
        return self.train.steps * self.train.batch_size * self.model.depth * self.model.width**2

    @property
    def folder(self) -> Path:
        """The run's folder in that of its study; it does not change when the grid around the run does."""
        return Path(f"{self.model.kind}-{self.model.depth}-{self.signature}") / f"seed{self.seed}"


Grid = Annotated[
    tuple[dict[str, list[Any]], ...],
    WithJsonSchema(
        {
            "description": "Dotted keys with lists of values: a product. A list of such mappings: all of them.",
            "anyOf": [
                {"type": "object", "minProperties": 1},
                {"type": "array", "minItems": 1, "items": {"type": "object", "minProperties": 1}},
            ],
        }
    ),
]


class Study(Section):
    """A study file: a base configuration, a grid over it, and seeds."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Name of the results folder. Default: the file's name."""
    description: str = ""
    """One sentence for the report."""
    data: DataConfig = Cifar10Data()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    grid: Grid = ({},)
    seeds: Annotated[tuple[Seed, ...], Field(strict=False, min_length=1)] = (0,)
    """Each cell of the grid is trained once per seed."""

    @field_validator("grid", mode="before")
    @classmethod
    def _grid_as_products(cls, grid: Any) -> Any:
        entries = grid if isinstance(grid, list | tuple) else [grid]
        if not entries:
            raise ValueError("the grid is empty; name at least one key, or leave grid out for a single net")
        products = []
        for entry in entries:
            if not isinstance(entry, dict) or (not entry and grid != ({},)):
                raise ValueError("expected dotted keys with lists of values, such as model.depth: [20, 32]")
            for key, values in entry.items():
                if key.partition(".")[0] not in ("data", "model", "train"):
                    raise ValueError(f"{key} can't vary; the grid is over data, model and train (for seeds, see seeds)")
                if values == []:
                    raise ValueError(f"{key} has an empty list, so the grid is empty; give it at least one value")
                if isinstance(values, dict):
                    inner = next(iter(values), "depth")
                    raise ValueError(f"{key} is a mapping; write dotted keys, such as {key}.{inner}: [...]")
            # A list stands for alternatives; milestones are themselves a list, so theirs is a list of lists.
            products.append({key: values if isinstance(values, list) else [values] for key, values in entry.items()})
        return tuple(products)

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed is listed twice")
        return seeds


SECTIONS: dict[str, type[Section]] = {
    "model": ModelConfig,
    "train": TrainConfig,
    "cifar10": Cifar10Data,
    "folder": FolderData,
    "shapes": ShapesData,
}
"""The section classes by the name that pydantic's error locations use (data sections by their source)."""
