"""Pure tensor functions: anchors, overlaps, masks, boxes, pixels. No state, no I/O."""

from eyas.ops.anchors import AnchorGrid, default_grid, ratio_cell_anchors, shapes_to_cell_anchors
from eyas.ops.near_objects import near_object_masks, near_object_masks_reference
from eyas.ops.pixels import as_float

__all__ = [
    "AnchorGrid",
    "as_float",
    "default_grid",
    "near_object_masks",
    "near_object_masks_reference",
    "ratio_cell_anchors",
    "shapes_to_cell_anchors",
]
