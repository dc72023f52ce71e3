"""Who may know of whom: the core of no Python and no model, the package of nothing heavy."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import maxcrops as mc

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "maxcrops"
KERNELS = PACKAGE / "kernels"
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = sorted(path for path in (ROOT / "csrc").rglob("*") if path.is_file())
HEAVY = {"torch", "torchvision", "transformers", "triton", "ray", "matplotlib", "pyarrow", "datasets"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_there_is_something_to_check() -> None:
    assert len(MODULES) > 15
    assert len(SOURCES) > 15
    assert any(includes(path) for path in SOURCES)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_only_bindings_know_python(path: Path) -> None:
    if "bindings" in path.parent.parts:
        return
    for header in includes(path):
        assert not re.match(r"(Python\.h|nanobind|pybind|torch|ATen|c10|numpy)", header), header


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_core_names_no_family(path: Path) -> None:
    specs = [mc.get_spec(key) for key in mc.list_specs()]
    names = {spec.key for spec in specs} | {spec.family for spec in specs}
    # The word that a name starts with (molmo2-8b and molmo2 are molmo), unless it is an ordinary one.
    stems = {match.group() for name in names if (match := re.match(r"[a-z]+", name))}
    stems -= {"command", "got", "aria", "step", "perception", "unlimited"}
    assert stems >= {"molmo", "internvl", "llava", "idefics", "smolvlm", "minicpmv", "lfm", "ovis", "deepseek"}
    words = stems | {name.replace("-", "_") for name in names}
    text = path.read_text(encoding="utf-8").lower()
    assert sorted(word for word in words if re.search(rf"(?<![a-z]){re.escape(word)}", text)) == []


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def imports(path: Path, *, everywhere: bool) -> Iterator[str]:
    """Dotted names that a module imports, `from a import b` as a.b: when loaded, or everywhere in it."""
    package = list(path.relative_to(ROOT).with_suffix("").parts)

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            for child in node.orelse:
                yield from visit(child)
        elif everywhere or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            for child in ast.iter_child_nodes(node):
                yield from visit(child)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")))


def test_imports_are_found() -> None:
    module = PACKAGE / "drawing.py"
    assert any(name.startswith("maxcrops") for name in imports(module, everywhere=True))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_heavy_at_the_top_level(path: Path) -> None:
    allowed = {"triton"} if path.parent == KERNELS else set()
    heavy = [name for name in imports(path, everywhere=False) if name.partition(".")[0] in HEAVY - allowed]
    assert heavy == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_kernels_are_imported_when_they_are_launched(path: Path) -> None:
    if path.parent != KERNELS:
        assert [name for name in imports(path, everywhere=False) if name.startswith("maxcrops.kernels")] == []


def test_kernels_are_imported_somewhere() -> None:
    launcher = PACKAGE / "preprocess" / "_triton.py"
    assert "maxcrops.kernels.crops" in imports(launcher, everywhere=True)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_specs_know_neither_planning_nor_command_line(path: Path) -> None:
    if path.parent != PACKAGE / "specs":
        return
    forbidden = ("maxcrops.planning", "maxcrops.cli")
    assert [name for name in imports(path, everywhere=True) if name.startswith(forbidden)] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nobody_imports_the_command_line(path: Path) -> None:
    if path.parent == PACKAGE / "cli" or path == PACKAGE / "__main__.py":
        return
    assert [name for name in imports(path, everywhere=True) if name.startswith("maxcrops.cli")] == []
