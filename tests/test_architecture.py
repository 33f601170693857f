"""The house rules that a machine can check: who may import whom, what lies where, what is never used."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rlcli"

# Left may import right. Names in one row are neighbours and do not import each other.
ROWS = [
    ["__main__"],
    ["main"],
    ["commands"],
    ["benchmarks", "testing"],
    ["pipeline"],
    ["algorithms"],
    ["collectors", "replay"],
    ["returns", "nets", "llm", "transforms"],
    ["envs"],
    ["datasets"],
    ["format"],
    ["_native"],
]
LEAVES = {"errors", "lazy", "config", "console", "plugins"}
TOP_LEVEL = {
    ".ci",
    ".clang-format",
    ".git",
    ".gitignore",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "constraints.txt",
    "csrc",
    "datasets",
    "docs",
    "format",
    "pyproject.toml",
    "rlcli",
    "tests",
}
RESTRICTED_UNPICKLER = "safe_pickle.py"  # reads other people's pickles without running what is in them
FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "datasets",
    "format",
}
FORBIDDEN_NAMES = {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "misc.py"}


def rank(area: str) -> int:
    return next(i for i, row in enumerate(ROWS) if area in row)


def walk(folder: Path, *suffixes: str) -> Iterator[Path]:
    """Every file below `folder`, symlinked folders too (`rglob` skips those on Python 3.11)."""
    for directory, names, files in os.walk(folder, followlinks=True):
        names[:] = [name for name in names if name not in ("__pycache__", "build")]
        yield from (Path(directory) / name for name in sorted(files) if name.endswith(suffixes))


def area_of(module: str) -> str | None:
    """`rlcli.format.layout` -> `format`; None for a module outside the package or `rlcli` itself."""
    parts = module.split(".")
    return parts[1] if parts[0] == "rlcli" and len(parts) > 1 and not parts[1].startswith("__") else None


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """`(line, module)` of every import, at any depth: in functions, under TYPE_CHECKING, and by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "." * node.level + (node.module or "")
            elif node.module == "rlcli":
                yield from ((node.lineno, f"rlcli.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module or ""
        elif isinstance(node, ast.Call) and _called(node) in ("lazy_import", "import_module", "__import__"):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield node.lineno, argument.value


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


MODULES = sorted(walk(PACKAGE, ".py"))
TREES = {path: ast.parse(path.read_text()) for path in MODULES}


def violations(path: Path, tree: ast.AST) -> list[str]:
    """The imports in one file of the package that point to the left or to a neighbour."""
    relative = path.relative_to(PACKAGE)
    here = relative.parts[0].removesuffix(".py")
    found = []
    for line, module in imports(tree):
        where = f"rlcli/{relative}:{line} imports {module}"
        area = area_of(module)
        if module.startswith("."):
            found.append(f"{where}: relative; import from the defining module by its full name")
        elif area is None or area in LEAVES or area == here or here == "__init__":
            continue
        elif here in LEAVES:
            found.append(f"{where}: leaves import leaves only")
        elif rank(area) <= rank(here):
            found.append(f"{where}: {here} may only import what stands to its right")
    return found


def test_imports_go_one_way() -> None:
    assert [line for path, tree in TREES.items() for line in violations(path, tree)] == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("format/x.py", "def f():\n    from rlcli.pipeline.run import Run"),
        ("algorithms/x.py", "from rlcli.pipeline import updates"),
        ("collectors/x.py", "import rlcli.replay.uniform"),
        ("envs/x.py", "if TYPE_CHECKING:\n    from rlcli.nets.mlp import mlp"),
        ("nets/x.py", "torch = lazy_import('rlcli.algorithms.dqn')"),
        ("errors.py", "from rlcli.format.specs import Box"),
        ("pipeline/x.py", "from .run import Run"),
    ],
)
def test_the_import_rule_notices(file: str, source: str) -> None:
    assert len(violations(PACKAGE / file, ast.parse(source))) == 1


def test_every_area_has_its_row() -> None:
    areas = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES} - {"__init__"}
    assert areas <= {area for row in ROWS for area in row} | LEAVES


def test_tables_name_modules_that_exist() -> None:
    """Tables hold modules as strings; a string that looks like one of ours must resolve."""
    pattern = re.compile(r"rlcli(\.[a-z_0-9]+)+")
    missing = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and pattern.fullmatch(node.value)
            ):
                target = ROOT / node.value.replace(".", "/")
                if not (
                    target.is_dir() or target.with_suffix(".py").exists() or node.value == "rlcli._native"
                ):
                    missing.append(f"{path}:{node.lineno} {node.value}")
    assert missing == []


def test_the_top_level_is_as_designed() -> None:
    listed = set(os.popen(f"git -C '{ROOT}' ls-files 2>/dev/null").read().split())
    if not listed:
        pytest.skip("not a git checkout")
    assert {name.split("/")[0] for name in listed} <= TOP_LEVEL


def test_format_and_datasets_shadow_nobody() -> None:
    for name in ("format", "datasets"):
        assert not (ROOT / name / "__init__.py").exists()
        assert (PACKAGE / name).is_symlink()
        assert os.readlink(PACKAGE / name) == f"../{name}"


def test_every_other_package_says_what_it_is_for() -> None:
    folders = [folder for folder in PACKAGE.iterdir() if folder.is_dir() and folder.name != "__pycache__"]
    for folder in folders:
        if folder.name not in ("format", "datasets"):
            docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
            assert docstring, f"{folder}/__init__.py has no docstring"


def test_every_module_says_why_it_exists() -> None:
    assert [str(path) for path, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    folders = [PACKAGE, ROOT / "tests", ROOT / "csrc"]
    files = [path for folder in folders for path in walk(folder, ".py", ".hpp", ".cpp", ".pyi")]
    assert [f"{path} {n}" for path in files if (n := len(path.read_text().splitlines())) > 500] == []


def test_no_drawer_modules() -> None:
    assert [str(path) for path in MODULES if path.name in FORBIDDEN_NAMES] == []


def test_nothing_is_pickled_or_evaluated() -> None:
    found = []
    for path, tree in TREES.items():
        found += [
            f"{path}:{n} {name}"
            for n, name in imports(tree)
            if name.split(".")[0] in FORBIDDEN_MODULES and path.name != RESTRICTED_UNPICKLER
        ]
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            call = ast.unparse(node.func)
            unpickles = any(
                keyword.arg == "allow_pickle" and getattr(keyword.value, "value", None) is True
                for keyword in node.keywords
            )
            if call in ("eval", "exec", "torch.load", "torch.save", "yaml.load") or unpickles:
                found.append(f"{path}:{node.lineno} {call}")
    assert found == []


def test_nothing_reads_the_environment_at_import() -> None:
    found = []
    for path, tree in TREES.items():
        for statement in tree.body:
            if isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                continue
            names = {ast.unparse(node) for node in ast.walk(statement) if isinstance(node, ast.Attribute)}
            if names & {"os.environ", "os.getenv"}:
                found.append(f"{path}:{statement.lineno}")
    assert found == []


def test_the_native_code_knows_no_torch() -> None:
    sources = list(walk(ROOT / "csrc", ".hpp", ".cpp", ".txt"))
    assert sources
    assert [
        str(path) for path in sources if re.search(r"torch/|ATen|c10|find_package\(Torch", path.read_text())
    ] == []


def test_kernels_know_no_python() -> None:
    """`csrc/*.hpp` can be fuzzed and run under sanitizers alone; only `bind*` includes pybind11."""
    kernels = [path for path in walk(ROOT / "csrc", ".hpp") if not path.name.startswith("bind")]
    assert [str(path) for path in kernels if re.search(r"pybind11|Python\.h", path.read_text())] == []
