"""The laws of the house, kept by a walk over the syntax trees."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: Each package or module of components may import only those to its left (and itself).
ORDER = (
    *(
        "errors",
        "progress",
        "layers",
        "provenance",
        "ledger",
        "workspace",
        "config",
        "config_file",
        "grid",
    ),
    *("insar", "products", "cube", "simulation", "dataset"),
    *("training", "inference", "verification", "evaluation", "inventory"),
)

#: Heavy libraries and the only places that may import them.
ONLY_IN = {
    "prefect": ("flows/",),
    "torch": (
        "models/",
        "components/training/",
        "components/dataset/torch_dataset.py",
        "components/inference/predict.py",
        "components/verification/",
    ),
}

#: Parts that run on a bare GPU machine: what they must not import when they are loaded.
BARE = (
    "models/",
    "components/errors.py",
    "components/layers.py",
    "components/progress.py",
    "components/training/loop.py",
    "components/training/module.py",
    "components/training/selection.py",
    "components/dataset/torch_dataset.py",
    "components/dataset/augment.py",
    "components/dataset/presets.py",
    "components/inference/predict.py",
)
NOT_BARE = {
    "rasterio", "rioxarray", "zarr", "dask", "prefect", "geopandas", "pydantic", "odc", "sqlalchemy",
}  # fmt: skip


#: Experiments on simulated tiles run there too; of the list below they need pydantic alone.
EXPERIMENTS = (
    "components/evaluation/networks.py",
    "components/training/tiletest.py",
)


def sources() -> list[Path]:
    return [
        p for top in ("flows", "components", "models") for p in sorted((ROOT / top).rglob("*.py"))
    ]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def sources_of(*prefixes: str) -> list[Path]:
    """Modules below the prefixes, package markers of the root left out."""
    found = [p for p in sources() if name_of(p).startswith(prefixes)]
    return [p for p in found if name_of(p) != "components/__init__.py"]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(path: Path, *, typing_too: bool = True) -> Iterator[str]:
    """Dotted names that a module imports, at any depth."""

    def walk(node: ast.AST) -> Iterator[str]:
        if is_type_checking(node) and not typing_too:
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    yield from walk(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_storeys_import_downwards_only(path: Path) -> None:
    below = {"flows": set(), "components": {"flows"}, "models": {"flows", "components"}}
    forbidden = below[path.relative_to(ROOT).parts[0]]
    assert not {name.split(".")[0] for name in imports(path)} & forbidden


@pytest.mark.parametrize("path", sources_of("components/"), ids=name_of)
def test_components_import_to_the_left_only(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    here = ORDER.index(parts[1])
    for name in imports(path):
        other = name.split(".")
        if other[0] == "components" and len(other) > 1:
            assert ORDER.index(other[1]) <= here, f"{name} lies to the right of {parts[1]}"


@pytest.mark.parametrize("path", sources(), ids=name_of)
@pytest.mark.parametrize("library", ONLY_IN)
def test_heavy_libraries_stay_in_their_rooms(path: Path, library: str) -> None:
    roots = {name.split(".")[0] for name in imports(path)}
    if library in roots:
        assert name_of(path).startswith(ONLY_IN[library])


@pytest.mark.parametrize("path", sources_of("components/grid/", "components/insar/"), ids=name_of)
def test_grid_and_insar_do_no_io(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & {"rasterio", "rioxarray", "torch", "zarr", "h5netcdf", "pathlib", "os"}


@pytest.mark.parametrize(
    ("bare", "absent"), [(BARE, NOT_BARE), (EXPERIMENTS, NOT_BARE - {"pydantic"})]
)
def test_bare_modules_need_no_geospatial_stack(bare: tuple[str, ...], absent: set[str]) -> None:
    """Follows imports at load time from every bare module, as Python would."""
    by_name = {name_of(p).removesuffix(".py").replace("/", "."): p for p in sources()}

    def load(name: str, seen: set[str]) -> None:
        if name in seen or name not in by_name:
            return
        seen.add(name)
        for inner in imports(by_name[name], typing_too=False):
            assert inner.split(".")[0] not in absent, f"{name} imports {inner}"
            load(inner, seen)
            # importing a.b.c runs the __init__ of a and a.b
            for i in range(1, len(inner.split("."))):
                load(".".join(inner.split(".")[:i]) + ".__init__", seen)

    seen: set[str] = set()
    starts = [n for n, p in by_name.items() if name_of(p).startswith(bare)]
    assert len(starts) >= len(bare), "a bare module has gone: correct the list"
    for start in starts:
        load(start, seen)


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_no_print_no_assert_no_pickle(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Assert), f"{name_of(path)}:{node.lineno}: assert"
    assert "pickle" not in {name.split(".")[0] for name in imports(path)}


def test_error_codes_are_raised_from_the_table_and_documented() -> None:
    from components.errors import CODES, codes_markdown

    used = {
        node.value
        for path in sources()
        if name_of(path) != "components/errors.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"SW-\d{3}", node.value)
    }
    assert used == set(CODES), "codes raised and codes of the table differ"
    assert (ROOT / "docs" / "errors.md").read_text() == codes_markdown() + "\n", "run `make docs`"


def test_lock_holds_names_and_versions_only() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    for line in lines:
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            assert name, line
            assert version, line
            assert not set("/@ ") & set(line), line
