"""Grids and windows: geometry without I/O."""

from components.grid.geobox import geobox_from_dict, geobox_to_dict, same_grid
from components.grid.windows import Window, block_windows, plan_windows, tile_starts

__all__ = [
    "Window",
    "block_windows",
    "geobox_from_dict",
    "geobox_to_dict",
    "plan_windows",
    "same_grid",
    "tile_starts",
]
