"""The aligned period cube: template, region writes, publish."""
