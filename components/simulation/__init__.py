"""Simulated regions with exact truth, written as HyP3 products."""
