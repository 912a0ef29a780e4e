"""When, with which parameters and with which retries: the only place that imports Prefect."""
