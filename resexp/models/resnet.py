"""The paper's CIFAR family (section 4.2): 3x3 stem, three stages of n blocks, global average pooling, one fc layer."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from resexp.models.blocks import BatchNorm, Block, conv3x3


class ResNet(nn.Module):
    """A plain or residual net of 6n+2 layers; `shortcut` None makes it plain.

    Plain nets and residual nets with option A have the same parameters in the same order, so the same seed gives both
    the same initial weights.
    """

    def __init__(self, n: int, width: int = 16, shortcut: str | None = "A", classes: int = 10) -> None:
        super().__init__()
        self.conv = conv3x3(3, width)
        self.bn = BatchNorm(width)
        widths = (width, 2 * width, 4 * width)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    *(
                        Block(
                            channels_in=widths[max(stage - 1, 0)] if block == 0 else widths[stage],
                            channels_out=widths[stage],
                            stride=2 if block == 0 and stage > 0 else 1,
                            shortcut=shortcut,
                        )
                        for block in range(n)
                    )
                )
                for stage in range(3)
            )
        )
        self.fc = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W), H and W divisible by 4 -> logits (B, classes)."""
        x = F.relu(self.bn(self.conv(x)))
        x = self.stages(x)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits
