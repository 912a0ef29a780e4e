"""Polygons, attributes, lineage, export, report."""
