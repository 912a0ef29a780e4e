"""Readers of deformation products: one a format, and refusals."""
