"""Which depths a net can have, and the blocks of its stages: the tables of the papers."""

from __future__ import annotations

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
"""Weighted layers of a block."""


def stages(kind: str, variant: str, layers: int | None, depth: int) -> tuple[int, ...]:
    """The number of blocks (VGG: convolutions) in each stage of a net whose blocks have `layers` weighted layers.

    They are () where the number of layers is unknown. Raises ValueError that names the depths there are.
    """
    if layers is None:
        return ()
    if kind == "vgg":
        if depth not in VGG:
            raise ValueError(f"VGG has {' or '.join(map(str, VGG))} layers")
        return VGG[depth]
    if variant == "imagenet":
        known = [known for known, (block, _) in IMAGENET.items() if LAYERS[block] == layers]
        if depth not in known:
            name = next((block for block, of_block in LAYERS.items() if of_block == layers), f"{layers}-layer")
            raise ValueError(f"of {name} blocks, ImageNet's nets have {', '.join(map(str, known)) or 'no'} layers")
        return IMAGENET[depth][1]
    per_n = 3 * layers
    if (depth - 2) % per_n or depth < per_n + 2:
        below = max(per_n + 2, (depth - 2) // per_n * per_n + 2)
        raise ValueError(f"must be {per_n}n+2; the nearest are {below} and {below + per_n}")
    return ((depth - 2) // per_n,) * 3


def smallest(kind: str, variant: str, layers: int | None) -> int:
    """The depth of a net whose depth is not said: of CIFAR's nets the first of Fig. 6, else the shallowest."""
    if kind == "vgg":
        return min(VGG)
    if variant == "imagenet":
        return min(depth for depth, (block, _) in IMAGENET.items() if LAYERS[block] == (layers or 2))
    return 20 if 18 % (3 * (layers or 2)) == 0 else 3 * (layers or 2) + 2
