"""The workspace: where things are, how they are published, what has been done.

Law of publishing: write to a staging folder, write the manifest last, move the folder to its place in
one step, record it in the ledger. A reader sees a whole artefact or none; a run that is killed at any
instant is completed by the next, with the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from components.errors import WorkspaceError
from components.ledger import Ledger
from components.provenance import digest, software

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artefact:
    """One published folder: the small value that travels between stages and Prefect tasks.

    Parameters
    ----------
    stage : str
        ``cube``, ``track``, ``region``, ``tiles``, ``dataset``, ``model``, ``detections``,
        ``evaluation`` or ``inventory``.
    key : str
        SHA-256 of inputs, configuration and algorithm version; the identity of the content.
    path : str
        Absolute folder.
    meta : dict
        Small JSON facts that later stages and people need (track, period, counts, …).
    reused : bool
        True where the artefact was there already and nothing was computed.
    """

    stage: str
    key: str
    path: str
    meta: dict[str, Any] = field(default_factory=dict)
    reused: bool = False

    @property
    def folder(self) -> Path:
        """The artefact's folder."""
        return Path(self.path)


@contextlib.contextmanager
def coded_os_errors(path: Path) -> Iterator[None]:
    """Turn a full disk and missing permissions into coded errors.

    Parameters
    ----------
    path : Path
        What is being written.

    Raises
    ------
    WorkspaceError
        SW-202 for a full disk or quota, SW-201 for missing permissions.
    """
    try:
        yield
    except OSError as e:
        if e.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise WorkspaceError("SW-202", e.strerror or str(e), path=path) from e
        if e.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}:
            raise WorkspaceError("SW-201", e.strerror or str(e), path=path) from e
        raise


def make_folder(folder: Path) -> None:
    """Make a folder, where it is not there, and see that files can be written into it.

    Parameters
    ----------
    folder : Path
        With all its parents.

    Raises
    ------
    WorkspaceError
        SW-201 where it cannot be made or written to, SW-202 on a full disk.
    """
    with coded_os_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except FileExistsError:
            raise WorkspaceError("SW-201", "there is a file of this name", path=folder) from None
        except FileNotFoundError as e:  # a file system that makes no folders, such as /proc
            raise WorkspaceError("SW-201", "cannot make this folder", path=folder) from e


class Workspace:
    """One region's folder.

    Parameters
    ----------
    root : Path
        Folder; made if missing.
    ledger_url : str, optional
        SQLAlchemy URL of the ledger; default a SQLite file in the folder.

    Raises
    ------
    WorkspaceError
        SW-201 where the folder cannot be made or written to.
    """

    def __init__(self, root: Path, ledger_url: str | None = None) -> None:
        self.root = Path(root).expanduser().resolve()
        make_folder(self.root)
        self.ledger = Ledger(ledger_url or f"sqlite:///{self.root / 'ledger.sqlite'}")

    @property
    def staging(self) -> Path:
        """Folder of unfinished work; what a killed run leaves here is removed by the next."""
        return self.root / "staging"

    def place(self, stage: str, *parts: str) -> Path:
        """Final folder of an artefact: ``root/stage/parts…``.

        Parameters
        ----------
        stage : str
            Kind of artefact.
        *parts : str
            Track, period, short key, …

        Returns
        -------
        Path
        """
        return self.root.joinpath(stage, *parts)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the workspace for one writing process; the lock dies with the process.

        Raises
        ------
        WorkspaceError
            SW-203 where another process holds it.
        """
        path = self.root / ".lock"
        with coded_os_errors(path), path.open("w") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise WorkspaceError(
                    "SW-203", "another process is writing", path=self.root
                ) from None
            shutil.rmtree(self.staging, ignore_errors=True)
            yield

    def find(self, final: Path, key: str) -> Artefact | None:
        """The published artefact of this place and key, if it is there and whole.

        Parameters
        ----------
        final : Path
            Its folder.
        key : str
            Its identity.

        Returns
        -------
        Artefact or None
            With ``reused=True``. None where there is none, or one of another key.
        """
        found = read_artefact(final)
        if found is None or found.key != key:
            return None
        self.ledger.record_artefact(found.stage, key, final.relative_to(self.root), found.meta)
        return Artefact(found.stage, key, str(final), found.meta, reused=True)

    @contextlib.contextmanager
    def publish(
        self, stage: str, final: Path, key: str, meta: dict[str, Any] | None = None
    ) -> Iterator[Path]:
        """Yield a staging folder; on leaving without error, publish it at its place.

        Parameters
        ----------
        stage : str
            Kind of artefact.
        final : Path
            Its folder. An artefact of another key there is replaced.
        key : str
            Its identity.
        meta : dict, optional
            Facts for the manifest; the caller may fill it until the block ends.

        Yields
        ------
        Path
            An empty folder on the same disk.

        Raises
        ------
        WorkspaceError
            SW-202 on a full disk, SW-201 without permission. Nothing is published then.
        """
        meta = {} if meta is None else meta
        with coded_os_errors(final):
            self.staging.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f"{stage}-", dir=self.staging))
            folder.chmod(0o755)
            try:
                yield folder
                files = sorted(p for p in folder.rglob("*") if p.is_file())
                manifest = {
                    "stage": stage,
                    "key": key,
                    "meta": meta,
                    "software": software(),
                    "files": {p.relative_to(folder).as_posix(): p.stat().st_size for p in files},
                }
                write_json(folder / MANIFEST, manifest)
                final.parent.mkdir(parents=True, exist_ok=True)
                old = Path(tempfile.mkdtemp(prefix="old-", dir=self.staging))
                if final.exists():
                    os.replace(final, old / "x")
                os.replace(folder, final)
                shutil.rmtree(old, ignore_errors=True)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        self.ledger.record_artefact(stage, key, final.relative_to(self.root), meta)

    def artefacts(self, stage: str, **facts: Any) -> list[Artefact]:
        """Published artefacts of a kind whose meta hold the given facts, oldest path first.

        Parameters
        ----------
        stage : str
            Kind of artefact.
        **facts : Any
            Required entries of ``meta``.

        Returns
        -------
        list of Artefact
            Read from the manifests on disk, so a lost ledger loses nothing.
        """
        out = []
        for path in sorted((self.root / stage).rglob(MANIFEST)):
            found = read_artefact(path.parent)
            if found is not None and all(found.meta.get(k) == v for k, v in facts.items()):
                out.append(found)
        return out


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all: to a neighbour, then moved over the name.

    Parameters
    ----------
    path : Path
        The file.
    value : JSON-like
        Its content.
    """
    with coded_os_errors(path):
        tmp = path.with_name(f".{path.name}.{os.getpid()}")
        with tmp.open("w") as f:
            json.dump(value, f, indent=1, sort_keys=True, default=str)
            f.write("\n")
            f.flush()
            os.fsync(f.fileno())
        os.replace(tmp, path)


def read_artefact(folder: Path) -> Artefact | None:
    """Read a published folder's manifest.

    Parameters
    ----------
    folder : Path
        A folder that `Workspace.publish` made.

    Returns
    -------
    Artefact or None
        None where there is no manifest.

    Raises
    ------
    WorkspaceError
        SW-206 where the manifest is unreadable, or files that it lists are missing or of another
        size.
    """
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text())
        stage, key, meta = data["stage"], data["key"], data["meta"]
        files = dict(data["files"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as e:
        raise WorkspaceError("SW-206", f"manifest unreadable: {e}", path=path) from e
    for name, size in files.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size:
            raise WorkspaceError("SW-206", f"{name} is missing or was changed", path=folder)
    return Artefact(stage, key, str(folder), meta)


def artefact_dict(artefact: Artefact) -> dict[str, Any]:
    """Plain JSON form of an artefact.

    Parameters
    ----------
    artefact : Artefact
        Any artefact.

    Returns
    -------
    dict
    """
    return asdict(artefact)


def stage_key(stage: str, version: str, *parts: Any) -> str:
    """Identity of an artefact: stage, algorithm version, input keys and configuration.

    Parameters
    ----------
    stage : str
        Kind of artefact.
    version : str
        Version of the algorithm; raised by hand when its results change.
    *parts : JSON-like
        Keys of the inputs, configuration section, …

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    return digest(stage, version, *parts)
