"""Publishing, locking, ledger, digests and configuration: what holds when things go wrong."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.config import Config, IngestConfig, RegionConfig
from components.config_file import config_yaml, load_config
from components.errors import CODES, InputError, WorkspaceError
from components.ledger import Ledger
from components.provenance import canonical_json, digest, file_sha256, files_sha256
from components.workspace import MANIFEST, Workspace, read_artefact, stage_key

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


def publish(ws: Workspace, key: str, text: str, name: str = "cube") -> Path:
    final = ws.place(name, "descending", "p1")
    with ws.publish(name, final, key, {"n": len(text)}) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "data.txt").write_text(text)
    return final


def run_python(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


# -- publishing ----------------------------------------------------------------------------------


def test_what_was_published_is_found_under_its_key_alone(ws: Workspace) -> None:
    final = publish(ws, "k1", "abc")
    found = ws.find(final, "k1")
    assert found is not None
    assert (found.reused, found.meta, found.folder) == (True, {"n": 3}, final)
    assert ws.find(final, "k2") is None
    assert ws.find(ws.place("cube", "nowhere"), "k1") is None
    assert [a["key"] for a in ws.ledger.artefacts("cube")] == ["k1"]


def test_another_key_replaces_the_artefact_and_leaves_nothing_behind(ws: Workspace) -> None:
    publish(ws, "k1", "abc")
    final = publish(ws, "k2", "defg")
    assert (final / "inner" / "data.txt").read_text() == "defg"
    assert ws.find(final, "k1") is None
    assert list(ws.staging.iterdir()) == []


def test_an_error_publishes_nothing_and_keeps_what_was_there(ws: Workspace) -> None:
    def fail(final: Path) -> None:
        with ws.publish("cube", final, "k2") as folder:
            (folder / "half").write_text("x")
            raise RuntimeError

    final = publish(ws, "k1", "abc")
    with pytest.raises(RuntimeError):
        fail(final)
    assert ws.find(final, "k1") is not None
    assert list(ws.staging.iterdir()) == []
    fresh = ws.place("cube", "other")
    with pytest.raises(RuntimeError):
        fail(fresh)
    assert not fresh.exists()


def test_two_workspaces_get_the_same_bytes(tmp_path: Path) -> None:
    a, b = Workspace(tmp_path / "a"), Workspace(tmp_path / "b")
    first, second = publish(a, "k", "abc"), publish(b, "k", "abc")
    assert (first / MANIFEST).read_bytes() == (second / MANIFEST).read_bytes()


#: For every file system step of a second publishing: a child that dies just before it.
DIE = """
import os, shutil, signal, sys, tempfile
from pathlib import Path
from components.workspace import Workspace

base = Path(sys.argv[1])
PLACES = (os, "replace"), (os, "mkdir"), (os, "fsync"), (shutil, "rmtree"), (tempfile, "mkdtemp")

def publish_twice(root, fatal):
    steps = 0

    def mortal(function):
        def call(*args, **kwargs):
            nonlocal steps
            steps += 1
            if steps == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return call

    ws = Workspace(root)
    with ws.lock():
        for key in ("old", "new"):
            with ws.publish("cube", ws.place("cube", "t"), key) as folder:
                (folder / "data").write_text(key)
            if key == "old":
                for module, name in PLACES:
                    setattr(module, name, mortal(getattr(module, name)))
                ws.ledger.record_artefact = mortal(ws.ledger.record_artefact)

for fatal in range(1, 1000):
    pid = os.fork()
    if pid == 0:
        publish_twice(base / str(fatal), fatal)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if status == 0:  # it lived through all steps
        print(fatal)
        break
    if not os.WIFSIGNALED(status):
        sys.exit(f"step {fatal}: the child failed otherwise")
"""


def test_killed_before_any_step_it_is_whole_or_absent_and_can_be_repeated(tmp_path: Path) -> None:
    ran = run_python(DIE, tmp_path)
    assert ran.returncode == 0, ran.stderr
    whole = int(ran.stdout)
    assert whole > 6
    expected = (tmp_path / str(whole) / "cube" / "t" / MANIFEST).read_bytes()
    for fatal in range(1, whole):
        ws = Workspace(tmp_path / str(fatal))
        final = ws.place("cube", "t")
        found = read_artefact(final)  # raises where it is there but not whole
        if found is not None:
            assert (final / "data").read_text() == found.key
        with ws.lock():  # the dead process holds no lock; its leavings are cleared away
            assert not ws.staging.exists()
            if ws.find(final, "new") is None:
                with ws.publish("cube", final, "new") as folder:
                    (folder / "data").write_text("new")
        assert (final / MANIFEST).read_bytes() == expected
        assert {a["key"] for a in ws.ledger.artefacts()} >= {"new"}
        assert list(ws.staging.glob("*")) == []


def test_artefacts_are_listed_from_disk_even_without_a_ledger(ws: Workspace) -> None:
    publish(ws, "k1", "abc")
    publish(ws, "k2", "abc", name="tiles")
    (ws.root / "ledger.sqlite").unlink()
    again = Workspace(ws.root)
    assert [a.key for a in again.artefacts("cube", n=3)] == ["k1"]
    assert again.artefacts("cube", n=4) == []
    # The lost ledger fills again as artefacts are found.
    assert again.ledger.artefacts() == []
    again.find(again.place("cube", "descending", "p1"), "k1")
    assert len(again.ledger.artefacts()) == 1


# -- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / MANIFEST).write_text("{"),
        lambda f: (f / MANIFEST).write_text("[]"),
        lambda f: (f / MANIFEST).write_text('{"stage": "cube"}'),
        lambda f: (f / MANIFEST).write_text('{"stage":"c","key":"k","meta":{},"files":["a"]}'),
        lambda f: (f / MANIFEST).write_bytes(b"\xff\xfe\x00"),
        lambda f: (f / "inner" / "data.txt").unlink(),
        lambda f: (f / "inner" / "data.txt").write_text("longer than before"),
        lambda f: os.truncate(f / "inner" / "data.txt", 1),
    ],
)
def test_a_damaged_artefact_is_refused_not_used(ws: Workspace, damage: Any) -> None:
    final = publish(ws, "k1", "abc")
    damage(final)
    with pytest.raises(WorkspaceError) as e:
        ws.find(final, "k1")
    assert e.value.code == "SW-206"
    assert str(final) in str(e.value)
    # The remedy works: deleted, it is simply not there.
    shutil.rmtree(final)
    assert ws.find(final, "k1") is None


def test_a_ledger_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"this is not a database" * 100)
    with pytest.raises(WorkspaceError) as e:
        Workspace(tmp_path)
    assert e.value.code == "SW-207"


def test_a_ledger_of_another_version_is_refused(tmp_path: Path) -> None:
    Ledger(f"sqlite:///{tmp_path / 'l.sqlite'}")
    import sqlite3

    with sqlite3.connect(tmp_path / "l.sqlite") as c:
        c.execute("ALTER TABLE products RENAME COLUMN reader TO kind")
    c.close()
    with pytest.raises(WorkspaceError) as e:
        Ledger(f"sqlite:///{tmp_path / 'l.sqlite'}").products()
    assert e.value.code == "SW-207"


# -- where one may not or cannot write --------------------------------------------------------------


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/slopewatch"])
def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError) as e:
        Workspace(tmp_path / place)
    assert e.value.code == "SW-201"
    assert e.value.path is not None


def test_a_full_disk_is_told_and_nothing_is_published(ws: Workspace) -> None:
    final = ws.place("cube", "t")

    def fill() -> None:
        with ws.publish("cube", final, "k") as folder:
            # A real device whose every write ends with "no space left".
            (folder / "data").symlink_to("/dev/full")
            (folder / "data").write_bytes(b"x" * 10_000)

    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with pytest.raises(WorkspaceError) as e:
        fill()
    assert e.value.code == "SW-202"
    assert not final.exists()
    assert list(ws.staging.iterdir()) == []


def test_on_a_disk_of_one_megabyte_nothing_half_is_left(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("may not mount a small disk")
    try:
        ws = Workspace(disk / "ws")
        kept = publish(ws, "k1", "small")

        def overfill() -> None:
            with ws.publish("cube", kept, "k2") as folder:
                (folder / "data").write_bytes(bytes(2**21))

        with pytest.raises(WorkspaceError) as e:
            overfill()
        assert e.value.code == "SW-202"
        assert ws.find(kept, "k1") is not None
        assert list(ws.staging.iterdir()) == []
        # There is room again: the same call goes through.
        publish(ws, "k2", "also small")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_size_limit_counts_as_full() -> None:
    code = """
    import resource, sys, tempfile
    from pathlib import Path
    from components.errors import WorkspaceError
    from components.workspace import Workspace
    ws = Workspace(Path(tempfile.mkdtemp()) / "ws")
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    try:
        with ws.publish("cube", ws.place("cube"), "k") as folder:
            (folder / "data").write_bytes(bytes(1_000_000))
    except WorkspaceError as e:
        print(e.code, ws.place("cube").exists())
    """
    assert run_python(code).stdout.split() == ["SW-202", "False"]


# -- lock ------------------------------------------------------------------------------------------


def test_one_process_writes_at_a_time_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    code = """
    import sys, time
    from pathlib import Path
    from components.workspace import Workspace
    with Workspace(Path(sys.argv[1])).lock():
        print("held", flush=True)
        time.sleep(60)
    """
    ws = Workspace(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(WorkspaceError) as e, ws.lock():
            pass
        assert e.value.code == "SW-203"
        holder.kill()
        holder.wait()
        with ws.lock():
            pass


# -- ledger ----------------------------------------------------------------------------------------


def test_recording_again_replaces_the_row(ws: Workspace) -> None:
    row: dict[str, Any] = {
        "sha256": "a" * 64,
        "path": Path("/x/p.tif"),
        "reader": "plain",
        "track": "T1",
        "dates": ("2023-01-01", "2023-06-30"),
        "cube_key": "k1",
    }
    ws.ledger.record_product(**row)
    ws.ledger.record_product(**{**row, "cube_key": "k2"})
    [found] = ws.ledger.products()
    assert (found["cube_key"], found["track"], found["date_end"]) == ("k2", "T1", "2023-06-30")


@given(
    st.lists(
        st.tuples(
            st.integers(0, 20),
            st.sampled_from(["done", "skipped", "failed"]),
            st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=10),
            st.integers(0, 9),
        ),
        max_size=12,
    )
)
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_windows_keep_their_last_state(
    ws: Workspace, states: list[tuple[int, str, str, int]]
) -> None:
    run = digest(states)
    ws.ledger.record_windows(run, states)
    expected = {s[0]: s for s in states}
    found = ws.ledger.windows(run)
    assert [w["window_id"] for w in found] == sorted(expected)
    for w in found:
        assert (w["state"], w["reason"], w["detections"]) == expected[w["window_id"]][1:]


# -- digests ---------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(JSON)
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: Any) -> None:
    def turned(v: Any) -> Any:
        if isinstance(v, dict):
            return {k: turned(v[k]) for k in reversed(v)}
        return [turned(x) for x in v] if isinstance(v, list) else v

    assert canonical_json(value) == canonical_json(turned(value))
    assert json.loads(canonical_json(value)) == value


def test_canonical_json_knows_paths_dates_and_sections_and_refuses_the_rest() -> None:
    assert canonical_json([Path("a/b"), date(2023, 1, 2)]) == '["a/b","2023-01-02"]'
    assert json.loads(canonical_json(RegionConfig(crs="EPSG:32647")))["crs"] == "EPSG:32647"
    with pytest.raises(TypeError, match="set"):
        canonical_json({1, 2})


def test_a_key_depends_on_every_part() -> None:
    keys = {
        stage_key("cube", "1", "a", {"x": 1}),
        stage_key("cube", "2", "a", {"x": 1}),
        stage_key("track", "1", "a", {"x": 1}),
        stage_key("cube", "1", "b", {"x": 1}),
        stage_key("cube", "1", "a", {"x": 2}),
    }
    assert len(keys) == 5


def test_file_digests_follow_content_and_name(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"1")
    b.write_bytes(b"2")
    first = file_sha256(a)
    assert files_sha256([a, b]) == files_sha256([b, a])
    a.write_bytes(b"22")
    assert file_sha256(a) != first  # no stale answer from the cache
    with pytest.raises(InputError) as e:
        file_sha256(tmp_path / "c")
    assert e.value.code == "SW-101"
    with pytest.raises(InputError) as e:
        file_sha256(tmp_path)
    assert e.value.code == "SW-102"


# -- errors ----------------------------------------------------------------------------------------


def test_errors_travel_between_processes() -> None:
    import pickle

    e = pickle.loads(pickle.dumps(InputError("SW-109", "3 pixels", path="/x", remedy="do")))
    assert isinstance(e, InputError)
    assert (e.code, e.what, e.path, e.remedy) == ("SW-109", "3 pixels", "/x", "do")
    assert e.title == CODES["SW-109"][0]
    assert all(part in str(e) for part in ("SW-109", "3 pixels", "/x", "do"))


# -- configuration -----------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=30)
NUMBER = st.floats(1e-3, 1e6)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    west, south = draw(st.floats(-1e6, 1e6)), draw(st.floats(-1e6, 1e6))
    return Config.model_validate(
        {
            "region": {
                "crs": draw(st.none() | TEXT),
                "resolution_m": draw(st.none() | NUMBER),
                "bounds": draw(st.none() | st.just((west, south, west + 1, south + 1))),
                "dem": draw(st.none() | TEXT.filter(bool)),
            },
            "ingest": {
                "coherence_min": draw(st.floats(0, 1)),
                "track": draw(st.none() | TEXT),
                "chunk": draw(st.sampled_from([16, 32])),
                "shard": draw(st.sampled_from([32, 64])),
            },
            "dataset": {"categories": draw(st.lists(TEXT, max_size=3))},
        }
    )


@given(configs())
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_configuration_survives_its_own_yaml(tmp_path: Path, config: Config) -> None:
    path = tmp_path / "slopewatch.yaml"
    path.write_text(config_yaml(config))
    assert load_config(path) == config


def test_every_key_of_the_yaml_is_described() -> None:
    lines = config_yaml().splitlines()
    for above, line in pairwise(lines):
        if line.startswith("  ") and not line.startswith("  #"):
            assert above.startswith("  # "), line
    assert load_config(None) == Config.model_validate(yaml.safe_load(config_yaml()))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("ingest:\n  coherence_mim: 0.3\n", "ingest.coherence_mim"),
        ("ingset: {}\n", "ingset"),
        ("ingest:\n  coherence_min: 2\n", "ingest.coherence_min"),
        ("ingest:\n  shard: 100\n  chunk: 64\n", "ingest"),
        ("ingest: 3\n", "ingest"),
        ("region:\n  resolution_m: .nan\n", "region.resolution_m"),
        ("- a\n- b\n", "sections"),
        ("a: [1\n", "expected"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as e:
        load_config(path)
    assert e.value.code == "SW-701"
    assert named in e.value.what
    assert e.value.path == str(path)


def test_overrides_lie_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("ingest:\n  chunk: 32\n  shard: 64\n")
    config = load_config(path, {"ingest.chunk": 16, "region.crs": "EPSG:32647"})
    assert config.ingest == IngestConfig(chunk=16, shard=64)
    assert config.region.crs == "EPSG:32647"
    for bad in ("chunk", "ingest.", "ingest.nothing"):
        with pytest.raises(InputError):
            load_config(path, {bad: 1})
    with pytest.raises(InputError) as e:
        load_config(tmp_path / "absent.yaml")
    assert e.value.code == "SW-101"
