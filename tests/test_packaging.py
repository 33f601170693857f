"""What is installed, and that a checkout breaks nobody else's imports. The builds themselves are slow."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SYSTEM_LIBRARIES = ("libstdc++", "libm.", "libgcc_s", "libc.", "libpthread", "ld-linux", "librt.", "libdl.")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Standard output of a command that must succeed."""
    merged = {**os.environ, **environment}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=merged, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_a_checkout_does_not_shadow_the_package_datasets(tmp_path: Path) -> None:
    """Someone else's `datasets` and `format` win although the working directory comes first on the path."""
    for name in ("datasets", "format"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("HERE = 'theirs'\n")
    code = "import datasets, format; print(datasets.HERE, format.HERE)"
    assert run(sys.executable, "-c", code, cwd=ROOT, PYTHONPATH=str(tmp_path)) == "theirs theirs\n"


def test_the_package_is_typed_and_versioned() -> None:
    import tomllib

    import rlcli

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == rlcli.__version__
    assert (ROOT / "rlcli/_native.pyi").exists()
    assert (ROOT / "rlcli/py.typed").exists()


def test_constraints_pin_every_direct_dependency() -> None:
    import re
    import tomllib

    def canonical(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", (ROOT / "constraints.txt").read_text(), re.M))
    pinned = {canonical(name) for name in pins}
    extras = project["optional-dependencies"]

    def lines(names: str) -> set[str]:
        found = {line for name in names.split(",") for line in extras[name]}
        own = [re.fullmatch(r"rlcli\[(.*)\]", line) for line in found]
        return found.union(*(lines(match[1]) for match in own if match))

    wanted = {*project["dependencies"], *lines("test,log,plot")}
    named = {canonical(re.split(r"[\[<>=!~ ]", line)[0]) for line in wanted}
    assert named - {"rlcli"} <= pinned
    assert pins["torch"] == "2.13.0"
    assert "torchvision" not in pinned


def extension() -> Path:
    spec = importlib.util.find_spec("rlcli._native")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def needs(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")


def test_the_extension_links_no_torch() -> None:
    needs("readelf")
    libraries = [
        line for line in run("readelf", "-d", extension(), cwd=ROOT).splitlines() if "(NEEDED)" in line
    ]
    names = [line.split("[")[1].rstrip("]") for line in libraries]
    assert names
    assert [name for name in names if not name.startswith(SYSTEM_LIBRARIES)] == []


def test_the_extension_has_no_torch_symbol() -> None:
    needs("nm")
    symbols = run("nm", "-D", "--demangle", extension(), cwd=ROOT)
    assert "PyInit__native" in symbols
    for word in ("torch", "c10::", "at::", "THP"):
        assert not [line for line in symbols.splitlines() if f" {word}" in line], word


# ---- builds: each takes a compiler and tens of seconds


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of this checkout, symlinks kept."""
    target = tmp_path_factory.mktemp("checkout") / "rl"
    ignored = shutil.ignore_patterns(
        ".venv",
        "build",
        "dist",
        ".git",
        "*_cache",
        "__pycache__",
        "*.so",
        ".hypothesis",
        "demo",
        "data",
        "runs",
    )
    shutil.copytree(ROOT, target, symlinks=True, ignore=ignored)
    return target


def fresh_environment(folder: Path) -> Path:
    """The Python of a new environment that sees our dependencies but not our editable install."""
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    site = next((folder / "lib").glob("python*/site-packages"))
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "dependencies.pth").write_text(
        f"{ours}\n"
    )  # a path in a .pth does not run that folder's own .pth
    return folder / "bin/python"


def assert_it_works(python: Path, cwd: Path) -> None:
    where = run(
        python, "-c", "import rlcli._native as n, rlcli.format.specs as s; print(n.__file__)", cwd=cwd
    )
    assert str(ROOT) not in where
    assert "collect" in run(python.parent / "rl", "--help", cwd=cwd)
    assert "dqn" in run(python.parent / "rl", "algo", "list", cwd=cwd)


def assert_only_rlcli(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"rlcli", "rlcli-0.1.0.dist-info"}
    for name in ("rlcli/format/specs.py", "rlcli/datasets/d4rl.py", "rlcli/main.py", "rlcli/py.typed"):
        assert name in names
    assert any(name.startswith("rlcli/_native.") and name.endswith(".so") for name in names)


@pytest.mark.slow
def test_sdist_to_wheel_to_install(checkout: Path, tmp_path: Path) -> None:
    pytest.importorskip("build.__main__", reason="the package build is in the extra test")
    run(sys.executable, "-m", "build", "--sdist", "--outdir", tmp_path, checkout, cwd=tmp_path)
    [sdist] = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        assert not any(member.issym() or member.islnk() for member in archive)
        tops = {"/".join(name.split("/")[1:2]) for name in archive.getnames()}
    assert not tops & {"format", "datasets"}
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", tmp_path, sdist, cwd=tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    assert_only_rlcli(wheel)
    python = fresh_environment(tmp_path / "env")
    run(python, "-m", "pip", "install", "--no-deps", wheel, cwd=tmp_path)
    assert_it_works(python, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("how", [(), ("-e",)], ids=["plain", "editable"])
def test_pip_install_from_the_checkout(checkout: Path, tmp_path: Path, how: tuple[str, ...]) -> None:
    python = fresh_environment(tmp_path / "env")
    run(python, "-m", "pip", "install", "--no-deps", *how, checkout, cwd=tmp_path)
    assert_it_works(python, tmp_path)
    site = next((tmp_path / "env/lib").glob("python*/site-packages"))
    for name in ("datasets", "format"):
        assert not (site / name).exists()
        (site / name).mkdir()
        (site / name / "__init__.py").write_text("HERE = 'theirs'\n")
    code = "import rlcli.format, rlcli.datasets, datasets, format; print(datasets.HERE, format.HERE)"
    assert run(python, "-c", code, cwd=tmp_path) == "theirs theirs\n"
