"""Pixel, object and COCO metrics; baselines."""
