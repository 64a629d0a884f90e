"""The order of imports: each row imports from the rows above it, and nothing is hidden in a function."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "resexp"

ROWS = [
    {"errors", "layer_table"},
    {"utils"},
    {"config", "distributed"},
    {"models", "paper", "runs"},
    {"device"},
    {"data"},
    {"evaluation", "probes"},
    {"report", "training"},
    {"executors", "display", "bench", "tracking"},
    {"sweeping"},
    {"probing", "api"},
    {"cli"},
    {"__main__"},
]

ALLOWED_IN_FUNCTIONS = {
    "__init__": "the library, so that `import resexp` is quick",
    "cli": "each command imports what it needs, so that --help is quick",
    "executors": "torch only in the processes that train",
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part(module: str) -> str:
    """The room of a dotted module name: ``resexp.data.official`` is in data."""
    return module.split(".")[1] if "." in module else "resexp"


def room(path: Path) -> str:
    """The room of a file."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "resexp":
            found |= {f"resexp.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("resexp."):
            found.add(str(node.module))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("resexp.")}
    return found


def test_imports_run_downwards() -> None:
    row = {name: i for i, names in enumerate(ROWS) for name in names}
    upwards = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in modules()
        if (own := room(path)) != "__init__"
        for module in imports(ast.parse(path.read_text()))
        if (other := part(module)) in row and other != own and row[other] >= row[own]
    ]
    assert upwards == []


def test_imports_stand_at_the_top() -> None:
    hidden = [
        f"{path.relative_to(PACKAGE)}: {node.name}"
        for path in modules()
        if room(path) not in ALLOWED_IN_FUNCTIONS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and any(map(imports, node.body))
    ]
    assert hidden == []


def test_json_is_written_in_one_place_which_knows_what_to_do_with_nan() -> None:
    """The other makes the text that a signature is a digest of."""
    writing = {str(path.relative_to(PACKAGE)) for path in modules() if "json.dump" in path.read_text()}
    assert writing == {"runs/records.py", "config/__init__.py"}


def test_every_file_can_be_read_in_one_sitting() -> None:
    assert {p.name: n for p in modules() if (n := len(p.read_text().splitlines())) > 350} == {}


def test_the_plain_and_the_residual_net_differ_in_one_place() -> None:
    """Only the block asks whether there is a shortcut."""
    asking = [p.name for p in (PACKAGE / "models").glob("*.py") if "shortcut is not None" in p.read_text()]
    assert asking == ["blocks.py"]
    assert (PACKAGE / "models/blocks.py").read_text().count("shortcut is not None") == 1
