"""What every cell of a map gets from all the others: the global-context block.

Cao, Xu, Lin, Wei, Hu, "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", ICCVW 2019.
"""

from __future__ import annotations

from torch import Tensor, nn


class GlobalContext(nn.Module):
    """``x + MLP(sum over the cells of softmax(a(x)) x)``, a and the layers of the MLP 1x1 convolutions.

    The last layer starts at 0, so that a new block changes nothing. The softmax over cells and the sum are in float32.

    Args:
        channels: C of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.attend = nn.Conv2d(channels, 1, 1)
        first, last = nn.Linear(channels, inner), nn.Linear(inner, channels)
        self.transform = nn.Sequential(first, nn.LayerNorm(inner), nn.ReLU(inplace=True), last)
        nn.init.kaiming_normal_(self.attend.weight, mode="fan_in")
        nn.init.zeros_(last.weight)
        for layer in (self.attend, last):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, C, H, W) to the same shape."""
        shares = self.attend(maps).flatten(2).float().softmax(dim=2)
        context = (maps.flatten(2).float() * shares).sum(dim=2)
        added: Tensor = self.transform(context)
        return maps + added[..., None, None]
