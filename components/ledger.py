"""The ledger: what has been read, published and processed, in SQLite or PostgreSQL.

The ledger answers questions; the manifests on disk are the truth. A lost ledger is rebuilt by the next
run, since every stage looks for its published artefact first and records what it finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from components.errors import WorkspaceError

_meta = sa.MetaData()

_products = sa.Table(
    "products",
    _meta,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("reader", sa.String(32), nullable=False),
    sa.Column("track", sa.String(64), nullable=False),
    sa.Column("date_start", sa.String(10), nullable=False),
    sa.Column("date_end", sa.String(10), nullable=False),
    sa.Column("cube_key", sa.String(64), nullable=False),
    sa.Column("recorded", sa.String(32), nullable=False),
)
_artefacts = sa.Table(
    "artefacts",
    _meta,
    sa.Column("stage", sa.String(32), primary_key=True),
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("meta", sa.JSON, nullable=False),
    sa.Column("recorded", sa.String(32), nullable=False),
)
_windows = sa.Table(
    "windows",
    _meta,
    sa.Column("run_key", sa.String(64), primary_key=True),
    sa.Column("window_id", sa.Integer, primary_key=True),
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("detections", sa.Integer, nullable=False),
)
_timings = sa.Table(
    "timings",
    _meta,
    sa.Column("stage", sa.String(32), primary_key=True),
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("units", sa.Float, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Ledger:
    """Tables of products, artefacts and windows.

    Parameters
    ----------
    url : str
        SQLAlchemy URL.

    Raises
    ------
    WorkspaceError
        SW-207 where the database cannot be opened or is of another kind.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        # One connection a use: no file handle outlives its query, threads never share one.
        self._engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
        try:
            _meta.create_all(self._engine)
        except sa.exc.SQLAlchemyError as e:
            raise WorkspaceError("SW-207", str(e.__cause__ or e), path=url) from e

    def _upsert(self, table: sa.Table, rows: Iterable[Mapping[str, Any]]) -> None:
        keys = [c.name for c in table.primary_key]
        try:
            with self._engine.begin() as c:
                for row in rows:
                    c.execute(sa.delete(table).where(*(table.c[k] == row[k] for k in keys)))
                    c.execute(sa.insert(table).values(**row))
        except sa.exc.SQLAlchemyError as e:
            code = "SW-202" if "disk is full" in str(e) else "SW-207"
            raise WorkspaceError(code, str(e.__cause__ or e), path=self.url) from e

    def _select(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        try:
            with self._engine.connect() as c:
                return [dict(r) for r in c.execute(query).mappings()]
        except sa.exc.SQLAlchemyError as e:
            raise WorkspaceError("SW-207", str(e.__cause__ or e), path=self.url) from e

    def record_artefact(self, stage: str, key: str, path: Path, meta: Mapping[str, Any]) -> None:
        """Record a published artefact; recording it again changes nothing but the time.

        Parameters
        ----------
        stage : str
            Kind of artefact.
        key : str
            Its identity.
        path : Path
            Relative to the workspace.
        meta : mapping
            JSON facts.
        """
        row = {
            "stage": stage,
            "key": key,
            "path": path.as_posix(),
            "meta": dict(meta),
            "recorded": _now(),
        }
        self._upsert(_artefacts, [row])

    def artefacts(self, stage: str | None = None) -> list[dict[str, Any]]:
        """Recorded artefacts, in the order of stage and path.

        Parameters
        ----------
        stage : str, optional
            Only this kind.

        Returns
        -------
        list of dict
        """
        query = sa.select(_artefacts).order_by(_artefacts.c.stage, _artefacts.c.path)
        return self._select(query if stage is None else query.where(_artefacts.c.stage == stage))

    def record_product(
        self,
        *,
        sha256: str,
        path: Path,
        reader: str,
        track: str,
        dates: tuple[str, str],
        cube_key: str,
    ) -> None:
        """Record an ingested product.

        Parameters
        ----------
        sha256 : str
            Of its files.
        path : Path
            Where it was read.
        reader : str
            Reader's name.
        track : str
            Track name.
        dates : tuple of str
            ISO dates of reference and secondary acquisition.
        cube_key : str
            Artefact key of the period cube made from it.
        """
        row = {
            "sha256": sha256,
            "path": str(path),
            "reader": reader,
            "track": track,
            "date_start": dates[0],
            "date_end": dates[1],
            "cube_key": cube_key,
            "recorded": _now(),
        }
        self._upsert(_products, [row])

    def products(self) -> list[dict[str, Any]]:
        """Ingested products by track and date.

        Returns
        -------
        list of dict
        """
        t = _products
        return self._select(sa.select(t).order_by(t.c.track, t.c.date_start, t.c.date_end))

    def record_windows(self, run_key: str, states: Iterable[tuple[int, str, str, int]]) -> None:
        """Record the state of inference windows.

        Parameters
        ----------
        run_key : str
            Artefact key of the inference run.
        states : iterable of tuple
            ``(window id, "done" | "skipped" | "failed", reason, number of detections)``.
        """
        rows = [
            {"run_key": run_key, "window_id": i, "state": s, "reason": r, "detections": n}
            for i, s, r, n in states
        ]
        self._upsert(_windows, rows)

    def windows(self, run_key: str) -> list[dict[str, Any]]:
        """Recorded windows of a run, by id.

        Parameters
        ----------
        run_key : str
            Artefact key of the inference run.

        Returns
        -------
        list of dict
        """
        t = _windows
        return self._select(sa.select(t).where(t.c.run_key == run_key).order_by(t.c.window_id))

    def record_timing(self, stage: str, key: str, *, units: float, seconds: float) -> None:
        """Record how long an artefact took; the last time counts.

        Parameters
        ----------
        stage : str
            Kind of artefact.
        key : str
            Its identity.
        units : float
            Amount of work, > 0, in the stage's own unit.
        seconds : float
            Wall time [s].
        """
        self._upsert(_timings, [{"stage": stage, "key": key, "units": units, "seconds": seconds}])

    def rate(self, stage: str) -> float | None:
        """Mean seconds a unit of a stage in this workspace.

        Parameters
        ----------
        stage : str
            Kind of artefact.

        Returns
        -------
        float or None
            None where nothing was recorded.
        """
        rows = self._select(sa.select(_timings).where(_timings.c.stage == stage))
        units = sum(r["units"] for r in rows)
        return sum(r["seconds"] for r in rows) / units if units else None
