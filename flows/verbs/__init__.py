"""The verbs of the command line, one a flow; importing this package registers them, in this order."""

from flows.verbs import region, model, maps, operation, benchmark  # isort: skip

__all__ = ["benchmark", "maps", "model", "operation", "region"]
