"""Layers of a product as lazy arrays."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from odc.geo.xr import wrap_xr

from components.errors import InputError
from components.grid import Window
from components.layers import LAYERS
from components.products.base import LayerSource, Product
from components.products.check import check_product
from components.products.convert import read_canonical

__all__ = ["check_product", "open_layer"]


def _block(source: LayerSource, block_info: Any = None) -> npt.NDArray[Any]:
    (r0, r1), (c0, c1) = block_info[None]["array-location"]
    return read_canonical(source, Window(r0, c0, r1 - r0, c1 - c0))


def open_layer(product: Product, name: str, chunks: int = 2048) -> xr.DataArray:
    """One layer of a product, read block by block when it is computed.

    Each block opens its file anew: any number of threads may compute at once, and memory grows with the
    number of blocks in work, not with the map.

    Parameters
    ----------
    product : Product
        As its reader returned it.
    name : str
        Canonical layer name, or ``mask``.
    chunks : int
        Side of a block [px].

    Returns
    -------
    DataArray
        Dimensions (y, x) on the product's grid, coordinates at pixel centres and ``spatial_ref``; float32
        in canonical unit and sign with NaN where missing, bool for ``mask``. Infinite values of the file
        come through: who stores them refuses them.

    Raises
    ------
    InputError
        SW-113 where the product has no such layer; on computing, SW-101 or SW-102 where a file is missing
        or unreadable.
    """
    try:
        source = product.layers[name]
    except KeyError:
        raise InputError(
            "SW-113",
            f"no layer `{name}`; there are {', '.join(sorted(product.layers))}",
            path=product.path,
        ) from None
    shape = tuple(int(n) for n in product.geobox.shape)
    dtype = np.dtype(bool if source.kind == "mask" else np.float32)
    blocks = da.core.normalize_chunks(  # type: ignore[no-untyped-call]
        (chunks, chunks), shape, dtype=dtype
    )
    array = da.map_blocks(  # type: ignore[no-untyped-call]
        _block,
        source=source,
        chunks=blocks,
        dtype=dtype,
        meta=np.empty((0, 0), dtype=dtype),
    )
    out: xr.DataArray = wrap_xr(array, product.geobox, dims=("y", "x"), nodata=None)
    layer = LAYERS.get(name)
    out.attrs = dict(layer.attrs() if layer else {"long_name": "good pixel", "units": "1"})
    out.name = name
    return out
