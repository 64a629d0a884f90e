"""VGG-16 and VGG-19, the baselines of the paper's Tables 3 and 4 (Simonyan and Zisserman 2014, nets D and E)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from resexp.config import ModelConfig
from resexp.models.init import init_classifier, init_weights
from resexp.models.layers import Dropout, conv, make_activation, norm


class VGG(nn.Module):
    """3x3 convolutions in five stages, each ended by pooling, and three fully connected layers.

    State dicts of torchvision's vgg16 and vgg19 load.
    """

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage, convolutions in enumerate(config.stages):
            filters = config.width << min(stage, 3)
            for _ in range(convolutions):
                layers.append(conv(config, 3, channels, filters))
                layers += [norm(config, filters)] if config.norm != "none" else []
                layers.append(make_activation(config))
                channels = filters
            layers.append(nn.MaxPool2d(2, stride=2))
        hidden = 64 * config.width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(7 * 7 * channels, hidden),
            make_activation(config),
            Dropout(),
            nn.Linear(hidden, hidden),
            make_activation(config),
            Dropout(),
            last := nn.Linear(hidden, classes),
        )
        init_weights(config, self.modules())
        init_classifier(config, last)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W), H and W at least 32 -> logits (B, classes)."""
        x = F.adaptive_avg_pool2d(self.features(x), 7)  # at 224 pixels it is 7x7 already
        logits: Tensor = self.classifier(x.flatten(1))
        return logits
