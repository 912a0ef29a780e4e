"""When, with which parameters and with which retries: the only place that imports Prefect."""

import os

# Nothing is sent anywhere unasked: both switches are needed, one for the server, one for the SDK.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
# The embedded server takes 10 s to start on an idle machine; Prefect gives up after 20 s.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
# Idle OpenMP threads sleep instead of spinning: on a shared machine that is several times faster. It
# must be set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
