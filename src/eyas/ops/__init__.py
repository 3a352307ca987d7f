"""Pure functions of tensors: anchors, overlaps, masks, boxes, pixels. No state, no files."""
