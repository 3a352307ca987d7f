"""Pure tensor functions: anchors, overlaps, masks, boxes, pixels. No state, no I/O."""

from eyas.ops.anchors import AnchorGrid, StrideGrid, ratio_cell_anchors, shapes_to_cell_anchors
from eyas.ops.near_objects import near_object_masks, near_object_masks_reference
from eyas.ops.pixels import as_float

__all__ = [
    "AnchorGrid",
    "StrideGrid",
    "as_float",
    "near_object_masks",
    "near_object_masks_reference",
    "ratio_cell_anchors",
    "shapes_to_cell_anchors",
]
