"""The wheel and the source archive hold exactly what they should, and what is in the wheel works."""

import os
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path, PurePosixPath

import pytest

from flashvsr_cli import __version__

ROOT = Path(__file__).parents[2]
NANO = "flashvsr_cli/checkpoints/nano.safetensors"
PACKAGED_MODEL_LIMIT = 12_000_000
PACKAGES = {"flashvsr_cli": ROOT / "src", "flashvsr_kernels": ROOT / "kernels"}


def build(target: str, folder: Path, root: Path = ROOT) -> Path:
    """Build with the project's own backend, without network."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_top_level_is_the_two_packages_and_their_metadata(names: set[str]) -> None:
    assert {PurePosixPath(name).parts[0] for name in names} == {
        "flashvsr_cli",
        "flashvsr_kernels",
        f"flashvsr_cli-{__version__}.dist-info",
    }


def test_files_are_the_sources_and_the_registry(names: set[str]) -> None:
    sources = {
        path.relative_to(root).as_posix()
        for package, root in PACKAGES.items()
        for path in (root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == sources | {"flashvsr_cli/weights.toml"}
    others = {name for name in names if not name.endswith((".py", ".toml", "py.typed")) and ".dist-info/" not in name}
    assert others == {NANO}


def test_nothing_of_tests_benchmarks_or_checkpoints_is_inside(names: set[str]) -> None:
    parts = {part for name in names for part in PurePosixPath(name).parts}
    assert not parts & {"tests", "golden", "mini", "bench", "shared", "docs", "kernels", "src"}
    assert not [name for name in names if name.endswith((".ckpt", ".pth"))]


def test_the_packaged_model_is_small(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.getinfo(NANO).file_size <= PACKAGED_MODEL_LIMIT


def test_registry_is_the_one_of_the_checkout(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("flashvsr_cli/weights.toml") == (ROOT / "weights.toml").read_bytes()


def test_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = f"flashvsr_cli-{__version__}.dist-info"
        metadata = message_from_string(archive.read(f"{info}/METADATA").decode())
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
        assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert (metadata["Name"], metadata["Version"]) == ("flashvsr-cli", __version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "flashvsr = flashvsr_cli.__main__:main" in entry_points


def test_what_is_in_the_wheel_runs_by_itself(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    code = (
        "import flashvsr_cli, flashvsr_kernels, pathlib, sys\n"
        "from flashvsr_cli.weights_registry import read_registry\n"
        "here = pathlib.Path(sys.argv[1]).resolve()\n"
        "assert all(here in pathlib.Path(m.__file__).resolve().parents for m in (flashvsr_cli, flashvsr_kernels))\n"
        "from flashvsr_cli.weights import resolve_checkpoint\n"
        "assert {'nano', 'v1', 'v1.1'} == set(read_registry().models)\n"
        "assert here in resolve_checkpoint('nano').files['dit'].parents\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, cwd=tmp_path, check=True)
    command = [sys.executable, "-m", "flashvsr_cli", "--version"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["flashvsr", __version__]


def test_source_archive_builds_the_same_wheel_and_has_the_tests(names: set[str], tmp_path: Path) -> None:
    archive_path = build("sdist", tmp_path / "sdist")
    with tarfile.open(archive_path) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / f"flashvsr_cli-{__version__}"
    for name in ("README.md", "LICENSE", "Makefile", "CONTRIBUTING.md", "weights.toml", "tests/golden/test_mini.py"):
        assert (unpacked / name).is_file(), name
    with zipfile.ZipFile(build("wheel", tmp_path / "wheel", unpacked)) as archive:
        assert set(archive.namelist()) == names
