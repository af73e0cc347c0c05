"""The repository itself: packaging list, links, light imports, file sizes, docstrings."""

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = {"cascade": "cascade", **SETUPTOOLS["package-dir"]}  # package -> its real folder
LINKS = ["frontends", "backends", "examples"]
LARGEST_FILE = 100_000


def files_under(folder: Path) -> Iterator[Path]:
    """Every file below a folder, symlinked folders left out."""
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def modules_loaded_by(statement: str) -> set[str]:
    """The names in sys.modules after running a statement in a fresh interpreter."""
    program = f"import sys; {statement}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_every_package_is_listed():
    found = {
        ".".join([package, *path.parent.relative_to(ROOT / folder).parts])
        for package, folder in FOLDERS.items()
        for path in files_under(ROOT / folder)
        if path.name == "__init__.py"
    }
    assert sorted(SETUPTOOLS["packages"]) == sorted(found)


@pytest.mark.parametrize("name", LINKS)
def test_link(name):
    link = ROOT / "cascade" / name
    assert link.is_symlink()
    assert link.resolve() == ROOT / name
    assert (link / "__init__.py").is_file()


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        (
            "import cascade",
            {"torch", "triton", "sympy", "lark", "networkx", "matplotlib", "rich"},
        ),
        ("import cascade.cli", {"torch", "sympy", "lark", "networkx", "rich"}),
    ],
)
def test_import_is_light(statement, heavy):
    assert modules_loaded_by(statement) & heavy == set()


def test_no_large_files():
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    large = [
        str(path.relative_to(ROOT))
        for path in paths
        if path.is_file()
        and path.stat().st_size > LARGEST_FILE
        and not {"data", "golden"} & set(path.relative_to(ROOT).parts[:-1])
    ]
    assert large == []


def test_every_module_has_a_docstring():
    silent = [
        str(path.relative_to(ROOT))
        for folder in FOLDERS.values()
        for path in files_under(ROOT / folder)
        if path.suffix == ".py" and not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert silent == []
