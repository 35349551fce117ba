"""The shape of the code is what docs/design.md says it is."""

import ast
import re
from pathlib import Path

import pytest
from helpers import ROOT

PACKAGE = ROOT / "background_remover"
FILES = [ROOT / name for name in ("app.py", "briarmbg.py", "utilities.py")] + sorted(PACKAGE.rglob("*.py"))
FILES = [path for path in FILES if path.name != "__init__.py"]
SAME_FLOOR = {("compositing.py", "colours.py")}  # as the table says; those of page/ may import each other


def floors() -> dict[str, int]:
    """By file name, or "page/": the floor in the table of docs/design.md."""
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", (ROOT / "docs" / "design.md").read_text(), re.MULTILINE)
    return {name: int(floor) for floor, names in rows for name in re.findall(r"`([\w./]+)`", names)}


def place(path: Path) -> str:
    """As the table names it."""
    return "page/" if path.parent.name == "page" else path.name


def imports(path: Path) -> set[Path]:
    """The files of the project that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found |= {ROOT / f"{name.replace('.', '/')}.py" for name in names}
    return found & set(FILES)


def test_every_file_has_its_floor():
    assert {place(path) for path in FILES} == floors().keys()


def test_nobody_imports_upwards_nor_in_a_circle():
    floor = floors()
    for path in FILES:
        for other in imports(path):
            here, there = place(path), place(other)
            same = (here, there) in SAME_FLOOR or here == there == "page/"
            assert floor[there] < floor[here] or same, f"{path.name} imports {other.name}"
    waiting = {path: imports(path) for path in FILES}
    while done := {path for path, needed in waiting.items() if not needed}:
        waiting = {path: needed - done for path, needed in waiting.items() if path not in done}
    assert not waiting, "imports in a circle"


@pytest.mark.parametrize("path", FILES + sorted((ROOT / "tests").glob("*.py")), ids=lambda path: path.name)
def test_no_file_is_longer_than_one_can_keep_in_mind(path):
    assert len(path.read_text().splitlines()) <= (620 if path.name == "app.py" else 520)


def test_nothing_of_others_is_replaced_but_in_one_place():
    """No assignment to an attribute of something that was imported from a library."""
    for path in FILES:
        tree = ast.parse(path.read_text())
        libraries = {
            (alias.asname or alias.name).split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        replaced = {
            ast.unparse(target)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Attribute) and ast.unparse(target).split(".")[0] in libraries
        }
        assert bool(replaced) == (path.name == "gradio_overrides.py"), replaced


def test_the_overrides_name_the_version_that_they_were_read_from():
    text = (PACKAGE / "page" / "gradio_overrides.py").read_text()
    (version,) = re.findall(r"^gradio\[mcp\]==([\d.]+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert f"Gradio {version}" in text
