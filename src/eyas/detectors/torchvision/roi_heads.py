"""RoI heads of Faster R-CNN: pooled features of a proposal to the input of its class and box predictors."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead


class DropoutHead(TwoMLPHead):
    """Two fully connected layers with dropout after each, as in the VGG Faster R-CNN.

    Args:
        inputs: channels times pooled height times pooled width.
        width: outputs of each layer; VGG's own have 4096.
        dropout: probability of setting a value to zero in training.
    """

    def __init__(self, inputs: int, width: int, dropout: float = 0.5) -> None:
        super().__init__(inputs, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled: Tensor) -> Tensor:
        """(proposals, channels, height, width) to (proposals, width)."""
        hidden = self.dropout(self.fc6(pooled.flatten(start_dim=1)).relu())
        output: Tensor = self.dropout(self.fc7(hidden).relu())
        return output


class StageHead(nn.Module):
    """The last stage of a ResNet on pooled features, averaged over its map: the C4 design (ResNet paper, appendix A).

    Args:
        layer4: the stage.
    """

    def __init__(self, layer4: nn.Module) -> None:
        super().__init__()
        self.layer4 = layer4

    def forward(self, pooled: Tensor) -> Tensor:
        """(proposals, channels, height, width) to (proposals, channels of the stage)."""
        output: Tensor = self.layer4(pooled).mean(dim=(2, 3))
        return output
