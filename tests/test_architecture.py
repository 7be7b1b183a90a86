"""Imports point down, files stay small, nothing executes a file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "nofreelunch"
LEVELS = {
    "errors": 0, "files": 0, "names": 0, "types": 0, "rng": 0,
    "threats": 1, "data": 1, "models": 1, "output": 1, "workspace": 1, "drawing": 1,
    "attacks": 2, "theory": 2,
    "evaluation": 3, "features": 3,
    "training": 4,
    "experiments": 5, "report": 5, "sweep": 5,
    "app": 6,
    "cli": 7,
    "__main__": 8,
}  # fmt: skip
SHARED = {"errors", "output", "workspace"}  # others of their level may use them: one way with bad input and files
FORBIDDEN = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"pickle", "dill", "marshal", "shelve", "yaml"}
FILES = sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield f"{node.module}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts_of(names: Iterator[str]) -> set[str]:
    words = (name.split(".") for name in names)
    return {word[1] for word in words if word[0] == "nofreelunch" and len(word) > 1}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return
    here = part(path)
    for other in parts_of(imports(ast.parse(path.read_text()))) & set(LEVELS):
        below = LEVELS[other] < LEVELS[here] or (other in SHARED and LEVELS[other] == LEVELS[here])
        assert other == here or below, f"{here} (level {LEVELS[here]}) imports {other} (level {LEVELS[other]})"


def test_every_part_has_a_level() -> None:
    assert {part(path) for path in FILES} - {"__init__"} <= set(LEVELS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = (ast.get_docstring(node) or "").count("\n")
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno + 1 - docstring <= 40, f"{node.name} is longer than a screen"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_executed_or_unpickled(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not {name.split(".")[0] for name in imports(tree)} & FORBIDDEN_MODULES
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        keywords = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
        assert not (isinstance(node.func, ast.Name) and called in FORBIDDEN), called
        assert keywords.get("allow_pickle") is not True
        if ast.unparse(node.func) == "torch.load":
            assert keywords.get("weights_only") is True
