"""Windows to detections to stitched landslides."""
