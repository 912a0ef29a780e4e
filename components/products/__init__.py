"""Readers of deformation products: one a format, and refusals.

`registry.discover` turns paths into `base.Product` values, `check.check_product` refuses what cannot be
used, `open.open_layer` gives a lazy array in canonical unit and sign.
"""
