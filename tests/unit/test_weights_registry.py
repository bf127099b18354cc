"""weights.toml: where it is found, what it says, and what is refused."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import flashvsr_cli
from flashvsr_cli.errors import WeightsError
from flashvsr_cli.weights_registry import (
    FOLDER_LAYOUT,
    REGISTRY_ENV,
    ROLES,
    find_registry,
    needed_roles,
    read_registry,
)

PACKAGE = Path(flashvsr_cli.__file__).parent
CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(REGISTRY_ENV, raising=False)


def found_from(source_root: Path) -> Path:
    """What `find_registry` says in a process that imports the package from that folder."""
    environment = {**os.environ, "PYTHONPATH": str(source_root)}
    code = "from flashvsr_cli.weights_registry import find_registry; print(find_registry())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


def copy_package(to: Path) -> Path:
    shutil.copytree(PACKAGE, to, ignore=shutil.ignore_patterns("weights.toml", "__pycache__"))
    return to


def test_found_beside_the_modules_as_in_a_wheel(tmp_path: Path):
    package = copy_package(tmp_path / "site-packages" / "flashvsr_cli")
    shutil.copy(CHECKOUT / "weights.toml", package)
    assert found_from(package.parent) == package / "weights.toml"


def test_found_at_the_root_of_a_checkout(tmp_path: Path):
    package = copy_package(tmp_path / "checkout" / "src" / "flashvsr_cli")
    shutil.copy(CHECKOUT / "weights.toml", tmp_path / "checkout")
    assert found_from(package.parent) == tmp_path / "checkout" / "weights.toml"


def test_environment_variable_comes_first_and_a_wrong_one_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copy(CHECKOUT / "weights.toml", tmp_path / "mine.toml")
    monkeypatch.setenv(REGISTRY_ENV, str(tmp_path / "mine.toml"))
    assert find_registry() == tmp_path / "mine.toml"
    monkeypatch.setenv(REGISTRY_ENV, str(tmp_path / "absent.toml"))
    with pytest.raises(WeightsError, match=r"absent\.toml is missing") as raised:
        find_registry()
    assert REGISTRY_ENV in str(raised.value.next_step)


def test_the_shipped_registry_lists_every_role_of_both_versions():
    registry = read_registry(CHECKOUT / "weights.toml")
    assert set(registry.models) == {"nano", "v1", "v1.1"}
    assert (registry.default, registry.default_cpu) == ("v1.1", "nano")
    for name in ("v1", "v1.1"):
        model = registry.model(name)
        assert model.version == name
        assert sorted(str(file.role) for file in model.files) == sorted(ROLES)
        assert [file.role for file in model.files_for("tiny")] == list(needed_roles("tiny"))
        assert [file.role for file in model.files_for("full")] == list(needed_roles("full"))
        for file in model.files:
            assert file.role is not None
            assert file.file_name in FOLDER_LAYOUT[file.role], "a downloaded snapshot is a folder in the layout"
    assert len({file.sha256 for file in registry.files}) == len(registry.files)


def test_the_versions_differ_in_the_dit_and_the_projection_only():
    registry = read_registry(CHECKOUT / "weights.toml")
    old, new = ({file.role: file for file in registry.model(name).files} for name in ("v1", "v1.1"))
    assert {role for role in ROLES if old[role] != new[role]} == {"dit", "lq_projection"}
    assert {file.revision for file in new.values()} == {
        "27561b186ded3402d7c975f4fd722e2885b6135f",
        "f1bc675696d43f05d183d9b7c49e44d84c843caf",
    }
    assert old["dit"].inferred == frozenset()
    assert old["lq_projection"].inferred == {"bytes"}
    assert old["lq_projection"].has_size(1), "an inferred size refuses nothing"
    assert not new["lq_projection"].has_size(1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("format = 1", "format = 2", "format 2 is not 1"),
        ('default = "v1.1"', 'default = "v9"', "default model 'v9' is not listed"),
        ('default_cpu = "nano"', 'default_cpu = "pico"', "default model 'pico' is not listed"),
        ('packaged = "checkpoints/nano.safetensors"', "", "nano does not belong in model nano"),
        ('role = "dit"', 'role = "dut"', "role 'dut' of dit-v1.1 is unknown"),
        ('version = "v1"', 'version = "v2"', "version 'v2' of model v1 is unknown"),
        ('files = ["dit-v1",', 'files = ["dit-v1.1",', "dit-v1.1 does not belong in model v1"),
        ('sha256 = "bd28', 'sha256 = "', "sha256 of dit-v1.1 is not 64"),
        ("bytes = 5676070392\n", "", "lacks 'bytes'"),
        ("[models.v1]", "[models.v1", "cannot be used"),
    ],
)
def test_nonsense_is_refused_with_its_place(tmp_path: Path, old: str, new: str, message: str):
    text = (CHECKOUT / "weights.toml").read_text()
    assert old in text
    path = tmp_path / "weights.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(WeightsError) as raised:
        read_registry(path)
    assert message in raised.value.message
    assert str(path) in raised.value.message
