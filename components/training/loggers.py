"""Optional logs beside metrics.csv: TensorBoard and MLflow, where they are installed.

TensorBoard writes into the work folder. MLflow is used where the environment names a tracking server
(``MLFLOW_TRACKING_URI``); a resumed training goes on in the same run, whose number is kept in the work
folder. Neither is needed, and nothing that is published depends on them.
"""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from lightning.pytorch.loggers import Logger

_LOG: Final = logging.getLogger(__name__)

#: Names of absent packages that have been told: once a process is enough.
_told: set[str] = set()


def open_loggers(work_dir: Path, name: str, settings: dict[str, Any]) -> list[Logger]:
    """Loggers that this machine offers.

    Parameters
    ----------
    work_dir : Path
        Receives ``tensorboard/`` and ``mlflow-run``.
    name : str
        Of the run.
    settings : dict
        Configuration, shown with the run.

    Returns
    -------
    list of Logger
        Empty where nothing is installed.
    """
    loggers: list[Logger] = []
    if _installed("tensorboard", "TensorBoard curves"):
        from lightning.pytorch.loggers import TensorBoardLogger

        loggers.append(TensorBoardLogger(work_dir, name="tensorboard", version=""))
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri and _installed("mlflow", "MLflow runs"):
        loggers.append(_mlflow(work_dir, name, uri))
    for logger in loggers:
        logger.log_hyperparams(settings)
    return loggers


def _installed(package: str, what: str) -> bool:
    if find_spec(package) is not None:
        return True
    if package not in _told:
        _told.add(package)
        _LOG.info("no %s: the package `%s` is not installed", what, package)
    return False


def _mlflow(work_dir: Path, name: str, uri: str) -> Logger:
    from lightning.pytorch.loggers import MLFlowLogger

    kept = work_dir / "mlflow-run"
    before = kept.read_text().strip() if kept.is_file() else None
    logger = MLFlowLogger(
        experiment_name="slopewatch", run_name=name, run_id=before, tracking_uri=uri
    )
    if before is None and logger.run_id:
        kept.write_text(logger.run_id + "\n")
    return logger
