"""Pure tensor functions: anchors, overlaps, masks, boxes, pixels. No state, no I/O."""
