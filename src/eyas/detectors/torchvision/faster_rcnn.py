"""Faster R-CNN by the name of its backbone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from eyas.detectors.torchvision.adapter import TorchvisionDetector
from eyas.detectors.torchvision.backbones import RESNETS, VGGS, Norm
from eyas.detectors.torchvision.building import RATIOS, AnchorSizes, Backbone, finish, make_anchors, make_backbone
from eyas.detectors.torchvision.pretrained import is_whole_detector
from eyas.detectors.weight_files import Weights

SINGLE_LEVEL_SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)
VGG_WIDTH = 4096


def faster_rcnn(
    classes: Sequence[str],
    backbone: str,
    *,
    weights: str | Path | None = None,
    norm: Norm = "batch",
    fpn_channels: int = 256,
    fpn_norm: bool = False,
    strides: Sequence[int] = (4, 8, 16, 32),
    anchor_sizes: AnchorSizes | None = None,
    anchor_ratios: Sequence[float] = RATIOS,
    head_width: int | None = None,
    dropout: float = 0.5,
    proposals_train: int = 2000,
    proposals_test: int = 1000,
    pre_nms_train: int | None = None,
    pre_nms_test: int | None = None,
    rpn_samples: int = 256,
    roi_samples: int = 512,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    detections: int = 100,
) -> TorchvisionDetector:
    """Faster R-CNN (Ren et al., 2015) with an FPN (Lin et al., 2017) or on one map of stride 16.

    Args:
        classes: class names in label order.
        backbone: name, see `eyas.detectors.torchvision.backbones`. ``vgg11`` and ``vgg16`` have the VGG's own two
            fully connected layers as RoI head, ``resnet..._c4`` the last stage of the ResNet, the others two layers of
            1024.
        weights: name of torchvision weights, or a file; see `eyas.detectors.torchvision.pretrained`.
        norm: "batch" or "frozen" BatchNorm in the backbone.
        fpn_channels: channels of every level of an FPN.
        fpn_norm: whether the FPN has BatchNorm.
        strides: strides of the trunk's maps that enter an FPN. One more level, of twice the last stride, only proposes.
        anchor_sizes: pixels. With an FPN one number, or a list of numbers, per level; else all for the single map.
            Default: 8 times the stride with an FPN, 32 to 512 without.
        anchor_ratios: height over width.
        head_width: width of the RoI head's two layers.
        dropout: probability, after each layer of VGG's RoI head.
        proposals_train: maximum proposals per image in training, after the RPN's NMS.
        proposals_test: the same in evaluation.
        pre_nms_train: maximum anchors of one level and image that enter the RPN's NMS in training, those of highest
            objectness. Default: ``proposals_train``. Ren et al.'s are 12,000, and 6,000 in evaluation: most overlap
            others and are dropped.
        pre_nms_test: the same in evaluation. Default: ``proposals_test``.
        rpn_samples: anchors per image in the RPN's loss.
        roi_samples: proposals per image in the RoI head's loss.
        score_threshold: lowest score of a detection.
        nms_threshold: IoU above which NMS drops the lower-scoring of two detections of one class.
        detections: maximum number per image.

    Raises:
        EyasError: an unknown backbone, options that contradict it, or weights that do not fit.
    """
    base = make_backbone("faster_rcnn", backbone, weights, norm, strides, fpn_channels, "pool", fpn_norm)
    default = [(8.0 * stride,) for stride in base.strides] if base.fpn else [SINGLE_LEVEL_SIZES]
    pool, head, width = _roi_head(base, head_width, dropout)
    model = FasterRCNN(
        base.module,
        rpn_anchor_generator=make_anchors(len(base.strides), anchor_sizes, anchor_ratios, default),
        box_roi_pool=pool,
        box_head=head,
        box_predictor=FastRCNNPredictor(width, len(classes) + 1),
        rpn_pre_nms_top_n_train=proposals_train if pre_nms_train is None else pre_nms_train,
        rpn_pre_nms_top_n_test=proposals_test if pre_nms_test is None else pre_nms_test,
        rpn_post_nms_top_n_train=proposals_train,
        rpn_post_nms_top_n_test=proposals_test,
        rpn_batch_size_per_image=rpn_samples,
        box_batch_size_per_image=roi_samples,
        box_score_thresh=score_threshold,
        box_nms_thresh=nms_threshold,
        box_detections_per_img=detections,
    )
    return finish(model, classes, base.weights)


def _roi_head(base: Backbone, width: int | None, dropout: float) -> tuple[MultiScaleRoIAlign, nn.Module, int]:
    """RoI pooling, the RoI head, and the width of the head's output."""
    pooled = [str(index) for index in range(len(base.strides) - 1)] if base.fpn else ["0"]
    if not base.fpn and (base.trunk.name in RESNETS or base.trunk.name.endswith("_half")):
        # The stage has stride 2, so 14 x 14 becomes 7 x 7.
        head = StageHead(base.trunk.module.get_submodule("layer4"))
        return MultiScaleRoIAlign(pooled, output_size=14, sampling_ratio=2), head, base.trunk.layers[32][1]
    pool = MultiScaleRoIAlign(pooled, output_size=7, sampling_ratio=2)
    inputs = base.channels * 7 * 7
    if not base.fpn and base.trunk.name in VGGS:
        width = VGG_WIDTH if width is None else width
        vgg_head = DropoutHead(inputs, width, dropout)
        if base.weights is not None and not is_whole_detector(base.weights) and width == VGG_WIDTH:
            _load_vgg_head(vgg_head, base.weights)
        return pool, vgg_head, width
    width = 1024 if width is None else width
    return pool, TwoMLPHead(inputs, width), width


def _load_vgg_head(head: DropoutHead, weights: Weights) -> None:
    """Load the classification network's fully connected layers if the weights have them."""
    with torch.no_grad():
        for layer, name in ((head.fc6, "classifier.0"), (head.fc7, "classifier.3")):
            if f"{name}.weight" in weights.tensors and weights.tensors[f"{name}.weight"].shape == layer.weight.shape:
                layer.weight.copy_(weights.tensors[f"{name}.weight"])
                layer.bias.copy_(weights.tensors[f"{name}.bias"])


class DropoutHead(TwoMLPHead):
    """Two fully connected layers of ``width`` with dropout after each, as in the VGG Faster R-CNN."""

    def __init__(self, inputs: int, width: int, dropout: float = 0.5) -> None:
        super().__init__(inputs, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled: Tensor) -> Tensor:
        """(proposals, channels, height, width) to (proposals, width)."""
        hidden = self.dropout(self.fc6(pooled.flatten(start_dim=1)).relu())
        output: Tensor = self.dropout(self.fc7(hidden).relu())
        return output


class StageHead(nn.Module):
    """The last stage of a ResNet on pooled features, averaged over its map: C4 (ResNet paper, appendix A)."""

    def __init__(self, layer4: nn.Module) -> None:
        super().__init__()
        self.layer4 = layer4

    def forward(self, pooled: Tensor) -> Tensor:
        """(proposals, channels, height, width) to (proposals, channels of the stage)."""
        output: Tensor = self.layer4(pooled).mean(dim=(2, 3))
        return output
