"""Shared by all tests: an own Prefect home, so that no run sees another's results."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# The machines that run this are noisy: a slow example is no fault.
settings.register_profile("slopewatch", deadline=None)
settings.load_profile("slopewatch")

# Set before anything imports Prefect: its test harness isolates the database but not result storage.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="slopewatch-prefect-")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real rasters outside the repository; tests that need it are skipped without it."""
    folder = Path(os.environ.get("SLOPEWATCH_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real rasters: {folder} is absent (set SLOPEWATCH_DATA)")
    return folder
