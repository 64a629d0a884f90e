"""The `model` section: which net."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from resexp.config import depths, plugins
from resexp.config.choice import Choice, Custom
from resexp.config.section import Section


def _of_residual(model: dict[str, Any]) -> Literal["A", "B"] | None:
    """The paper's shortcut: A on CIFAR and in Table 2, B with bottlenecks, which A would widen fourfold with zeros."""
    if model.get("kind") not in ("residual", "preact"):
        return None
    return "B" if model.get("block") == "bottleneck" else "A"


class ModelConfig(Section):
    """A net of He et al. 2015, for CIFAR (section 4.2) or ImageNet (4.1); pre-activated (arXiv 1603.05027); or VGG."""

    kind: Literal["plain", "residual", "preact", "vgg"] = "residual"
    """`plain` has no shortcuts; `residual` adds one around each block; `preact` has BN and ReLU before the
    convolutions of its residual blocks; `vgg` is the ImageNet baseline."""
    variant: Literal["cifar", "imagenet"] = Field(
        default_factory=lambda m: "imagenet" if m.get("kind") == "vgg" else "cifar"
    )
    """`cifar`: a 3x3 stem and three stages. `imagenet`: a 7x7 stem of stride 2, pooling, and four stages."""
    block: Annotated[str | Custom, Choice("block")] = "basic"
    """`basic`: two 3x3 convolutions. `bottleneck`: 1x1, 3x3, 1x1, the last four times as wide; the default where the
    depth is of ImageNet's nets with bottlenecks."""
    depth: Annotated[int, Field(le=10_000)] = Field(
        default_factory=lambda m: depths.smallest(
            m.get("kind", ""), m.get("variant", ""), layers_of(m.get("block", "basic"))
        )
    )
    """Number of weighted layers: 6n+2, or 9n+2 with bottlenecks; on ImageNet 18, 34, 50, 101, 152; VGG 16, 19."""
    width: Annotated[int, Field(ge=1, le=1024)] = Field(
        default_factory=lambda m: 64 if m.get("variant") == "imagenet" else 16
    )
    """Filters in the first stage; each later stage has twice as many. Paper: 16 on CIFAR, 64 on ImageNet."""
    shortcut: Annotated[str | Custom, Choice("shortcut")] | None = Field(default_factory=_of_residual)
    """Where dimensions change: `A` identity with zero padding (the paper's choice on CIFAR), `B` projection; `C`
    projects everywhere. A plain net has none."""
    stride_conv: Literal["1x1", "3x3"] | None = Field(
        default_factory=lambda m: "1x1" if m.get("block") == "bottleneck" else None
    )
    """Which convolution of a bottleneck halves the size: the first 1x1 (the paper), or the 3x3 (torchvision)."""
    norm: Annotated[str | Custom, Choice("norm")] = Field(
        default_factory=lambda m: "none" if m.get("kind") == "vgg" else "batch"
    )
    """What follows each convolution: `batch` BN; `group` normalisation of groups of 8 channels (arXiv 1803.08494);
    `layer` of all channels (1607.06450); `none` only a bias; `fixup` scalars (1901.09321)."""
    activation: Annotated[str | Custom, Choice("activation")] = "relu"
    """The nonlinearity: `relu`; `leaky_relu` of slope 0.01; `tanh`; `gelu` (arXiv 1606.08415); `tat`: leaky ReLUs whose
    slope follows from the depth of a plain net without norms (2203.08120)."""
    init: Annotated[str | Custom, Choice("init")] = "he"
    """Initial weights of convolutions: `he` (arXiv 1502.01852); `orthogonal` (1312.6120); `delta-orthogonal`: zero
    except for an orthogonal middle pixel (1806.05393); `dirac`: each passes its input on. The last layer is `he`."""
    residual_init: Literal["standard", "zero-gamma", "rezero"] = "standard"
    """How a residual branch begins: `zero-gamma` with the gain of its last BN at zero (arXiv 1706.02677); `rezero`
    behind a learned scalar that is zero at first (arXiv 2003.04887; with norm none, SkipInit, arXiv 2002.10444)."""
    residual_scale: Annotated[float, Field(gt=0)] | Literal["depth^-0.5", "depth^-1"] = 1.0
    """Constant factor of each residual branch; `depth^-0.5` is one over the root of the number of blocks (arXiv
    2010.12859)."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth: probability that a step skips the last branch; linearly less for earlier ones (arXiv
    1603.09382: 0.5)."""

    @property
    def smallest_side(self) -> int:
        """The fewest pixels a side that an image may have: VGG halves it five times."""
        return 32 if self.kind == "vgg" else 1

    @property
    def stages(self) -> tuple[int, ...]:
        """Blocks in each stage."""
        return depths.stages(self.kind, self.variant, layers_of(self.block), self.depth)

    @field_validator("variant")
    @classmethod
    def _vgg_is_for_imagenet(cls, variant: str, info: ValidationInfo) -> str:
        if info.data.get("kind") == "vgg" and variant != "imagenet":
            raise ValueError("VGG has one variant; leave it out")
        return variant

    @model_validator(mode="before")
    @classmethod
    def _block_of_the_depth(cls, model: Any) -> Any:
        if isinstance(model, dict) and model.get("variant") == "imagenet" and "block" not in model:
            depth = model.get("depth")
            known = depths.IMAGENET.get(depth) if isinstance(depth, int) else None
            return {**model, "block": known[0]} if known else model
        return model

    @field_validator("depth")
    @classmethod
    def _depth_is_possible(cls, depth: int, info: ValidationInfo) -> int:
        if info.data.get("kind") == "vgg" and info.data.get("block") == "bottleneck":
            raise ValueError("VGG has no bottlenecks; leave model.block out")
        kind, variant, block = (info.data.get(name) for name in ("kind", "variant", "block"))
        if kind and variant and block:
            depths.stages(kind, variant, layers_of(block), depth)
        return depth

    @field_validator("shortcut")
    @classmethod
    def _shortcut_fits_the_kind(cls, shortcut: str | None, info: ValidationInfo) -> str | None:
        kind = info.data.get("kind")
        if kind in ("plain", "vgg") and shortcut is not None:
            raise ValueError(f"a {kind} net has no shortcut; leave it out, or set model.kind to residual")
        if kind in ("residual", "preact") and shortcut is None:
            raise ValueError(f"a {kind} net needs a shortcut: 'A', 'B' or 'C'")
        return shortcut

    @field_validator("stride_conv")
    @classmethod
    def _only_bottlenecks_choose(cls, stride_conv: str | None, info: ValidationInfo) -> str | None:
        if "block" in info.data and (stride_conv is None) == (info.data["block"] == "bottleneck"):
            raise ValueError("goes with block: bottleneck, and there it is '1x1' or '3x3'")
        return stride_conv

    @field_validator("norm")
    @classmethod
    def _fixup_is_for_residual_nets(cls, norm: str, info: ValidationInfo) -> str:
        if norm == "fixup" and info.data.get("kind") != "residual":
            raise ValueError("Fixup initialises residual branches; set model.kind to residual, or norm to none")
        return norm

    @field_validator("activation")
    @classmethod
    def _tailored_to_plain_nets(cls, activation: str | Custom, info: ValidationInfo) -> str | Custom:
        if activation == "tat" and (info.data.get("kind"), info.data.get("norm")) != ("plain", "none"):
            raise ValueError(
                "tat is tailored to plain nets without norms; set model.kind to plain and model.norm to none"
            )
        return activation

    @field_validator("residual_init", "residual_scale", "drop_path")
    @classmethod
    def _only_branches_begin(cls, value: str | float, info: ValidationInfo) -> str | float:
        default = cls.model_fields[info.field_name or ""].default
        if value != default and info.data.get("kind") not in ("residual", "preact"):
            raise ValueError("is about residual branches, and this net has none; leave it out")
        if value == "zero-gamma" and (info.data.get("norm"), info.data.get("kind")) != ("batch", "residual"):
            raise ValueError("zero-gamma is about the BN that ends a branch, and this net has none; use rezero")
        if value != "standard" and info.field_name == "residual_init" and info.data.get("norm") == "fixup":
            raise ValueError("Fixup sets how a branch begins; leave it out")
        return value


def layers_of(block: str | Custom) -> int | None:
    """Weighted layers of a block; None for a plug-in's that is not loaded."""
    if isinstance(block, str):
        return depths.LAYERS[block]
    plugin = plugins.registered("block").get(block.name)
    return getattr(plugin.make, "layers", None) if plugin else None


def _literals(annotation: Any) -> list[str]:
    """The words among the values of a type: those of ``Literal["A", "B"] | None`` are A and B."""
    inner = get_args(annotation)
    return [word for value in inner for word in ([value] if isinstance(value, str) else _literals(value))]


_VALUES = [
    (word, field)
    for field, info in ModelConfig.model_fields.items()
    if field not in ("kind", "variant")
    for word in (plugins.BUILT_IN[field] if field in plugins.BUILT_IN else _literals(info.annotation))
]
WORDS = {
    word: field
    for word, field in _VALUES
    if [w for w, _ in _VALUES].count(word) == 1 and word.replace("-", "").isalnum() and word != "none"
}
"""Words that may follow kind and depth in a net's name, with the field that each is a value of."""


def name_part(key: str, value: Any) -> str:
    """A part of a net's name for a dotted key: ``norm=none``, or a word alone where it names its field, such as
    ``B``."""
    if isinstance(value, dict) and "name" in value:
        value = "+".join([str(value["name"]), *(f"{k}={v}" for k, v in value.items() if k not in ("name", "source"))])
    values = value if isinstance(value, list | tuple) else [value]
    words = ["none" if one is None else str(one).lower() if isinstance(one, bool) else str(one) for one in values]
    shown = "+".join(words)
    return shown if key == f"model.{WORDS.get(shown)}" else f"{key.rpartition('.')[2]}={shown}"
