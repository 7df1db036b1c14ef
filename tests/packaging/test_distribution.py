"""The wheel and the sdist: they build, install with pip into an empty environment, and run."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from anyarch.version import __version__

PROJECT = Path(__file__).resolve().parents[2]


def pip(*arguments: str, python: str = sys.executable) -> None:
    argv = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, f"pip {' '.join(arguments)}:\n{done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git tracks, copied: a build must need nothing else and may leave things behind."""
    target = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={PROJECT}", "ls-files", "-z"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
    )
    for name in os.fsdecode(listed.stdout).split("\0"):
        if name and (PROJECT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((PROJECT / name).read_bytes())
    return target


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--wheel-dir", str(out), str(checkout))
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    argv = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(out)]
    subprocess.run(argv, cwd=checkout, check=True, capture_output=True)
    (built,) = out.glob("*.tar.gz")
    return built


def test_wheel_holds_all_modules_and_nothing_else(wheel: Path, checkout: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == {
        str(path.relative_to(checkout / "src"))
        for path in (checkout / "src/anyarch").rglob("*")
        if path.is_file()
    }
    assert "anyarch/py.typed" in names


def test_sdist_holds_the_tests_and_the_licence(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "src/anyarch/__init__.py", "tests/conftest.py"} <= names


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_installed_in_an_empty_environment_it_runs(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip("install", str(request.getfixturevalue(kind)), python=str(environment / "bin/python"))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def output_of(*argv: str) -> str:
        return subprocess.run(
            argv,
            check=True,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=clean,
            stdin=subprocess.DEVNULL,
        ).stdout

    assert "anyarchd anyarch v" in output_of(str(environment / "bin/anyarchd"), "--version")
    assert not (environment / "bin/buildkitd").exists()  # a stock one must not be shadowed unasked
    assert output_of(str(environment / "bin/anyarch"), "--version") == f"anyarch {__version__}\n"
    assert (
        output_of(str(environment / "bin/python"), "-m", "anyarch", "--version") == f"anyarch {__version__}\n"
    )
    assert "--platform" in output_of(str(environment / "bin/anyarch"), "build", "--help")
    pip("check", python=str(environment / "bin/python"))
