"""The `model` section: which net, with the depths that the papers have."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator, model_validator

from resexp.config.plugins import Choice, PluginRef, registered
from resexp.config.section import Section, only
from resexp.errors import UserError

IMAGENET: dict[int, tuple[str, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
"""Blocks in each stage (He et al. 2015, Table 1)."""

VGG: dict[int, tuple[int, ...]] = {
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""3x3 convolutions in each stage; three fully connected layers follow (Simonyan and Zisserman 2014, nets D and E)."""

LAYERS = {"basic": 2, "bottleneck": 3}
"""Weighted layers of a block. This part must not import torch; tests compare them with the blocks'."""


def layers_of(block: str | PluginRef) -> int | None:
    """Weighted layers of a block; None for a plug-in's that is not loaded. Raises UserError for no such number."""
    if isinstance(block, str):
        return LAYERS[block]
    plugin = registered("block").get(block.name)
    layers = getattr(plugin.make, "layers", None) if plugin else None
    if plugin and layers is not None and not (isinstance(layers, int) and layers > 0):
        raise UserError(f"{plugin.path}: block {block.name}: layers is {layers!r}; write a whole number above 0")
    return layers


def blocks_per_stage(kind: str, variant: str, block_layers: int | None, depth: int) -> tuple[int, ...]:
    """The number of blocks (VGG: convolutions) in each stage of a net whose blocks have `block_layers` weighted layers.

    They are () where the number of layers is unknown. Raises ValueError that names the depths there are.
    """
    if block_layers is None:
        return ()
    if kind == "vgg":
        if depth not in VGG:
            raise ValueError(f"VGG has {' or '.join(map(str, VGG))} layers")
        return VGG[depth]
    if variant == "imagenet":
        known = [known for known, (block, _) in IMAGENET.items() if LAYERS[block] == block_layers]
        if depth not in known:
            name = next(block for block, layers in LAYERS.items() if layers == block_layers)
            raise ValueError(f"of {name} blocks, ImageNet's nets have {', '.join(map(str, known))} layers")
        return IMAGENET[depth][1]
    per_n = 3 * block_layers
    if (depth - 2) % per_n or depth < per_n + 2:
        below = max(per_n + 2, (depth - 2) // per_n * per_n + 2)
        raise ValueError(f"must be {per_n}n+2; the nearest are {below} and {below + per_n}")
    return ((depth - 2) // per_n,) * 3


def default_depth(kind: str, variant: str, block_layers: int | None) -> int:
    """The default depth: 20 on CIFAR, as the first net of Fig. 6, where blocks allow it; otherwise the smallest."""
    if kind == "vgg":
        return min(VGG)
    if variant == "imagenet":
        return min(depth for depth, (block, _) in IMAGENET.items() if LAYERS[block] == (block_layers or 2))
    return 20 if 18 % (3 * (block_layers or 2)) == 0 else 3 * (block_layers or 2) + 2


MAX_WIDTH = 1024
_PARAMS = r"(\d{1,12}(?:\.\d{1,6})?)([kM])"


def _as_number(params: Any) -> Any:
    """``270k`` and ``1.7M`` as numbers."""
    if not isinstance(params, str):
        return params
    if not (parts := re.fullmatch(_PARAMS, params)):
        raise ValueError("expected a number of parameters, such as 270k or 1.7M")
    return round(float(parts[1]) * {"k": 1e3, "M": 1e6}[parts[2]])


Params = Annotated[
    Annotated[int, Field(ge=1, lt=2**63)] | None,
    BeforeValidator(_as_number),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": f"^{_PARAMS}$"}]}),
]
"""A number of parameters; in a study file also in thousands (`270k`) or millions (`1.7M`)."""


def default_shortcut(model: dict[str, Any]) -> Literal["A", "B"] | None:
    """The paper's shortcut: A on CIFAR and in Table 2, B with bottlenecks, which A would widen fourfold with zeros."""
    if model.get("kind") not in ("residual", "preact"):
        return None
    return "B" if model.get("block") == "bottleneck" else "A"


BRANCHES = ("residual_init", "residual_scale", "drop_path")
"""Fields that only nets with residual branches have."""
_DEPENDENT = ("variant", "block", "depth", "shortcut", "stride_conv", "norm", "activation", "classifier_std", *BRANCHES)
"""Fields whose values must go together with those of earlier fields."""


StrideConv = Literal["1x1", "3x3"]
ResidualInit = Literal["standard", "zero-gamma", "rezero"]


class ModelConfig(Section):
    """A net of He et al. 2015, for CIFAR (section 4.2) or ImageNet (4.1); pre-activated (arXiv 1603.05027); or VGG."""

    not_in_signature = frozenset({"params"})

    kind: Literal["plain", "residual", "preact", "vgg"] = "residual"
    """`plain` has no shortcuts; `residual` adds one around each block; `preact` has BN and ReLU before the
    convolutions of its residual blocks; `vgg` is the ImageNet baseline."""
    variant: Literal["cifar", "imagenet"] = Field(
        default_factory=lambda m: "imagenet" if m.get("kind") == "vgg" else "cifar"
    )
    """`cifar`: a 3x3 stem and three stages. `imagenet`: a 7x7 stem of stride 2, pooling, and four stages."""
    block: Annotated[str | PluginRef, Choice("block")] = "basic"
    """`basic`: two 3x3 convolutions. `bottleneck`: 1x1, 3x3, 1x1, the last four times as wide; the default for
    ImageNet's depths 50, 101 and 152."""
    depth: Annotated[int, Field(le=10_000)] = Field(
        default_factory=lambda m: default_depth(
            m.get("kind", ""), m.get("variant", ""), layers_of(m.get("block", "basic"))
        )
    )
    """Number of weighted layers: 6n+2, or 9n+2 with bottlenecks; on ImageNet 18, 34, 50, 101, 152; VGG 16, 19."""
    width: Annotated[int, Field(ge=1, le=MAX_WIDTH)] = Field(
        default_factory=lambda m: 64 if m.get("variant") == "imagenet" else 16
    )
    """Filters in the first stage; each later stage has twice as many. Paper: 16 on CIFAR, 64 on ImageNet."""
    params: Params = None
    """Number of parameters, such as `270k` or `1.7M`, in place of the width: the width that comes nearest to it is
    taken. Your own images are taken to have ten classes (ImageNet's nets: 1000). Default: what the width gives."""
    shortcut: Annotated[str | PluginRef, Choice("shortcut")] | None = Field(default_factory=default_shortcut)
    """Where dimensions change: `A` identity with zero padding (the paper's choice on CIFAR), `B` projection; `C`
    projects everywhere. A plain net has none."""
    stride_conv: StrideConv | None = Field(default_factory=lambda m: "1x1" if m.get("block") == "bottleneck" else None)
    """Which convolution of a bottleneck halves the size: the first 1x1 (the paper), or the 3x3 (torchvision)."""
    norm: Annotated[str | PluginRef, Choice("norm")] = Field(
        default_factory=lambda m: "none" if m.get("kind") == "vgg" else "batch"
    )
    """What follows each convolution: `batch` BN; `group` normalisation of groups of at least 8 channels (arXiv
    1803.08494); `layer` of all channels (1607.06450); `none` only a bias; `fixup` scalars (1901.09321)."""
    activation: Annotated[str | PluginRef, Choice("activation")] = "relu"
    """The nonlinearity: `relu`; `leaky_relu` of slope 0.01; `tanh`; `gelu` (arXiv 1606.08415); `tat`: leaky ReLUs whose
    slope follows from the depth of a plain net without norms (2203.08120), derived for wide layers."""
    init: Annotated[str | PluginRef, Choice("init")] = "he"
    """Initial weights of convolutions: `he` (arXiv 1502.01852); `orthogonal` (1312.6120); `delta-orthogonal`: zero
    except for an orthogonal middle pixel (1806.05393); `dirac`: the identity plus random filters of norm 0.1
    (1706.00388)."""
    classifier_std: Annotated[float, Field(ge=0)] | None = None
    """Standard deviation of the last layer's initial weights. Default: sqrt(2 / inputs), as `he`; 0.01 in arXiv
    1706.02677, section 5.1. With norm fixup they are zero."""
    residual_init: ResidualInit = "standard"
    """How a residual branch begins: `zero-gamma` with the gain of its last BN at zero (arXiv 1706.02677); `rezero`
    behind a learned scalar that is zero at first (arXiv 2003.04887; with norm none, SkipInit, arXiv 2002.10444)."""
    residual_scale: Annotated[
        Annotated[float, Field(gt=0)] | Literal["depth^-0.5", "depth^-1"],
        only("a number above 0, depth^-0.5, depth^-1"),
    ] = 1.0
    """Constant factor of each residual branch; `depth^-0.5` is one over the root of the number of blocks (arXiv
    2010.12859)."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth: drop probability of the last block's branch; decreases linearly towards the first block (arXiv
    1603.09382: 0.5)."""

    @property
    def smallest_side(self) -> int:
        """The fewest pixels a side that an image may have: VGG halves it five times."""
        return 32 if self.kind == "vgg" else 1

    @property
    def stages(self) -> tuple[int, ...]:
        """Blocks in each stage."""
        return blocks_per_stage(self.kind, self.variant, layers_of(self.block), self.depth)

    def in_signature(self) -> dict[str, Any]:
        """As for every section; `dirac` is written otherwise since it has random filters."""
        return super().in_signature() | ({"init": "dirac+0.1"} if self.init == "dirac" else {})

    @model_validator(mode="before")
    @classmethod
    def _block_by_depth_and_width_by_params(cls, model: Any) -> Any:
        if not isinstance(model, dict):
            return model
        depth = model.get("depth")
        if model.get("variant") == "imagenet" and isinstance(depth, int) and depth in IMAGENET:
            model = {"block": IMAGENET[depth][0], **model}
        if model.get("params") is not None and model.get("width", 0) is None:
            return {key: value for key, value in model.items() if key != "width"}
        return model

    @field_validator(*_DEPENDENT)
    @classmethod
    def _goes_with_the_fields_before(cls, value: Any, info: ValidationInfo) -> Any:
        """Raise ValueError where a field contradicts an earlier one; `info.data` has the valid ones."""
        net, field = info.data, info.field_name
        kind, block, norm = net.get("kind"), net.get("block"), net.get("norm")
        if field == "variant" and kind == "vgg" and value != "imagenet":
            raise ValueError("VGG has one variant; leave it out")
        if field == "block" and kind == "vgg" and value != "basic":
            raise ValueError("VGG has no blocks to choose; leave it out")
        if field == "block" and net.get("variant") == "imagenet" and layers_of(value) not in (None, *LAYERS.values()):
            raise ValueError(f"ImageNet's nets have blocks of 2 or 3 layers, and this one has {layers_of(value)}")
        if field == "depth" and kind and block and "variant" in net:
            blocks_per_stage(kind, net["variant"], layers_of(block), value)
        if field == "shortcut" and kind in ("plain", "vgg") and value is not None:
            raise ValueError(f"a {kind} net has no shortcut; leave it out, or set model.kind to residual")
        if field == "shortcut" and kind in ("residual", "preact") and value is None:
            raise ValueError(f"a {kind} net needs a shortcut: 'A', 'B' or 'C'")
        if field == "stride_conv" and block and (value is None) == (block == "bottleneck"):
            raise ValueError("only bottleneck blocks have it, and they need '1x1' or '3x3'")
        if field == "norm" and value == "fixup" and kind != "residual":
            raise ValueError("Fixup initialises residual branches; set model.kind to residual, or norm to none")
        if field == "activation" and value == "tat" and (kind, norm) != ("plain", "none"):
            raise ValueError(
                "tat is tailored to plain nets without norms; set model.kind to plain and model.norm to none"
            )
        if field in BRANCHES and value != cls.model_fields[field].default and kind not in ("residual", "preact"):
            raise ValueError("is about residual branches, and this net has none; leave it out")
        if field == "classifier_std" and value is not None and norm == "fixup":
            raise ValueError("with Fixup the last layer begins at zero; leave it out")
        if field == "residual_init" and value == "zero-gamma" and (norm, kind) != ("batch", "residual"):
            raise ValueError("zero-gamma is about the BN that ends a branch, and this net has none; use rezero")
        if field == "residual_init" and value != "standard" and norm == "fixup":
            raise ValueError("Fixup sets how a branch begins; leave it out")
        return value
