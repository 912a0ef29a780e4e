"""From cube and polygons to tiles, COCO and tensors."""
