"""Folders and single files: which files are taken, which version they are, and what is refused."""

import hashlib
import json
import os
import struct
from pathlib import Path

import pytest

from flashvsr_cli.errors import WeightsError
from flashvsr_cli.weights import resolve_checkpoint
from flashvsr_cli.weights_check import CACHE_ENV, Progress, cache_folder, hash_file, remembered_hash
from flashvsr_cli.weights_registry import REGISTRY_ENV, read_safetensors_header

MINI = Path(__file__).resolve().parents[1] / "golden" / "mini"
DIT = "diffusion_pytorch_model_streaming_dmd.safetensors"

CONTENT = {("dit", "v1"): b"dit of v1", ("dit", "v1.1"): b"DIT OF V1", ("lq_projection", "v1"): b"lq of v1"}
CONTENT[("lq_projection", "v1.1")] = b"LQ OF V1"

TINY = f"""
[files.tiny]
role = "tiny_decoder"
versions = ["v1.1"]
repository = "some/model"
revision = "main"
path = "TCDecoder.ckpt"
bytes = 1
sha256 = "{"0" * 64}"
"""


@pytest.fixture(autouse=True)
def _small_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lines = ["format = 1", 'default = "known"', "[models.known]", 'version = "v1.1"', 'summary = "s"']
    lines += ['license = "l"', 'files = ["dit-v1.1"]']
    for (role, version), content in CONTENT.items():
        lines += [f'[files."{role}-{version}"]', f'role = "{role}"', f'versions = ["{version}"]']
        lines += ['repository = "some/model"', 'revision = "main"', f'path = "{role}"']
        lines += [f"bytes = {len(content)}", f'sha256 = "{hashlib.sha256(content).hexdigest()}"']
    (tmp_path / "weights.toml").write_text("\n".join(lines))
    monkeypatch.setenv(REGISTRY_ENV, str(tmp_path / "weights.toml"))
    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "own"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with every file that the tiny decoder needs; their contents are unknown to the registry."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in (DIT, "LQ_proj_in.ckpt", "TCDecoder.ckpt", "posi_prompt.pth"):
        (folder / name).write_bytes(b"something else")
    return folder


def write_single(path: Path, keys: list[str], **metadata: str) -> Path:
    """A safetensors file of empty tensors."""
    header: dict[str, object] = {key: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for key in keys}
    raw = json.dumps({**header, "__metadata__": metadata}).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw)
    return path


def test_a_folder_in_the_released_layout():
    tiny = resolve_checkpoint(str(MINI))
    assert tiny.version == "v1.1"
    assert not tiny.is_single_file
    assert {role: path.name for role, path in tiny.files.items()} == {
        "dit": DIT,
        "lq_projection": "LQ_proj_in.ckpt",
        "tiny_decoder": "TCDecoder.ckpt",
        "prompt": "posi_prompt.pth",
    }
    full = resolve_checkpoint(str(MINI), decoder="full", version="v1")
    assert full.version == "v1"
    assert set(full.files) == {"dit", "lq_projection", "vae", "prompt"}
    for name, sha256 in full.sha256().items():
        assert sha256 == hashlib.sha256((MINI / name).read_bytes()).hexdigest()


def test_names_are_taken_in_order_of_preference(folder: Path):
    (folder / "LQ_proj_in.safetensors").write_bytes(b"x")
    assert resolve_checkpoint(str(folder)).files["lq_projection"].name == "LQ_proj_in.ckpt"
    (folder / "LQ_proj_in.ckpt").unlink()
    (folder / "posi_prompt.pth").rename(folder / "Prompt.safetensors")
    files = resolve_checkpoint(str(folder)).files
    assert files["lq_projection"].name == "LQ_proj_in.safetensors"
    assert files["prompt"].name == "Prompt.safetensors"


@pytest.mark.parametrize("name", [DIT, "LQ_proj_in.ckpt", "TCDecoder.ckpt", "posi_prompt.pth"])
def test_a_missing_file_is_named(folder: Path, name: str):
    (folder / name).unlink()
    with pytest.raises(WeightsError) as raised:
        resolve_checkpoint(str(folder))
    assert name in raised.value.message
    assert raised.value.next_step


def test_the_full_decoder_asks_for_the_vae_only_when_chosen(folder: Path):
    resolve_checkpoint(str(folder), decoder="tiny")
    with pytest.raises(WeightsError, match=r"Wan2\.1_VAE\.pth") as raised:
        resolve_checkpoint(str(folder), decoder="full")
    assert "--decoder tiny" in str(raised.value.next_step)


@pytest.mark.parametrize("version", ["v1", "v1.1"])
def test_known_hashes_tell_the_version(folder: Path, version: str):
    (folder / DIT).write_bytes(CONTENT["dit", version])
    assert resolve_checkpoint(str(folder)).version == version
    (folder / "LQ_proj_in.ckpt").write_bytes(CONTENT["lq_projection", version])
    assert resolve_checkpoint(str(folder)).version == version
    other = {"v1": "v1.1", "v1.1": "v1"}[version]
    with pytest.raises(WeightsError, match=f"{DIT} is of {version}, but --model-version says {other}"):
        resolve_checkpoint(str(folder), version=other)  # type: ignore[arg-type]


@pytest.mark.parametrize(("dit", "lq"), [("v1", "v1.1"), ("v1.1", "v1")])
@pytest.mark.parametrize("version", [None, "v1", "v1.1"])
def test_mixed_versions_are_refused_by_hash(folder: Path, dit: str, lq: str, version):
    (folder / DIT).write_bytes(CONTENT["dit", dit])
    (folder / "LQ_proj_in.ckpt").write_bytes(CONTENT["lq_projection", lq])
    with pytest.raises(WeightsError) as raised:
        resolve_checkpoint(str(folder), version=version)
    assert f"{DIT} is of {dit}" in raised.value.message
    assert f"LQ_proj_in.ckpt is of {lq}" in raised.value.message


def test_hashes_are_remembered_until_the_file_changes(folder: Path):
    (folder / DIT).write_bytes(CONTENT["dit", "v1"])
    seen: list[Progress] = []
    resolve_checkpoint(str(folder), on_progress=seen.append)
    assert [(progress.file_name, progress.stage) for progress in seen] == [(DIT, "verify")]
    seen.clear()
    assert resolve_checkpoint(str(folder), on_progress=seen.append).version == "v1"
    assert seen == [], "read once"
    os.utime(folder / DIT, ns=(1, 1))
    resolve_checkpoint(str(folder), on_progress=seen.append)
    assert len(seen) == 1
    (folder / DIT).write_bytes(CONTENT["dit", "v1.1"])  # of the same size
    assert resolve_checkpoint(str(folder)).version == "v1.1"


def test_a_damaged_or_unwritable_memory_only_costs_time(folder: Path, caplog: pytest.LogCaptureFixture):
    first = hash_file(folder / DIT)
    assert remembered_hash(folder / DIT) == first
    (cache_folder() / "verified.json").write_text("{")
    assert remembered_hash(folder / DIT) is None
    assert hash_file(folder / DIT) == first
    (cache_folder() / "verified.json").unlink()
    cache_folder().rmdir()
    cache_folder().write_text("a file where the folder should be")
    assert hash_file(folder / DIT) == first
    assert "hashed again at every start" in caplog.text


def test_the_cache_follows_the_users_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(CACHE_ENV)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "flashvsr-cli"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "flashvsr-cli"


@pytest.mark.parametrize("model", ["v7", "no/such/folder", "absent.safetensors"])
def test_what_is_neither_a_name_nor_a_path_is_refused(model: str):
    with pytest.raises(WeightsError, match="There is no model named") as raised:
        resolve_checkpoint(model)
    assert "known" in str(raised.value.next_step)


def test_a_known_model_of_another_version_or_without_the_decoder_is_refused():
    with pytest.raises(WeightsError, match=r"Model known is v1\.1, not v1\."):
        resolve_checkpoint("known", version="v1")
    with pytest.raises(WeightsError, match="without the full decoder"):
        resolve_checkpoint("known", decoder="full")


def test_without_permission_to_download_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    text = (tmp_path / "weights.toml").read_text()
    (tmp_path / "weights.toml").write_text(text.replace('["dit-v1.1"]', '["dit-v1.1", "tiny"]') + TINY)
    with pytest.raises(WeightsError, match="dit of model known has not been downloaded") as raised:
        resolve_checkpoint("known", download=False)
    assert "flashvsr weights download known --decoder tiny" in str(raised.value.next_step)


def test_a_single_file_holds_every_role(tmp_path: Path):
    keys = ["dit.a", "lq_projection.a", "tiny_decoder.a", "prompt.posi_prompt"]
    path = write_single(tmp_path / "m.safetensors", keys, format="flashvsr-cli", format_version="1", version="v1")
    checkpoint = resolve_checkpoint(str(path))
    assert checkpoint.is_single_file
    assert checkpoint.version == "v1"
    assert dict(checkpoint.files) == dict.fromkeys(("dit", "lq_projection", "tiny_decoder", "prompt"), path)
    assert checkpoint.sha256() == {"m.safetensors": hashlib.sha256(path.read_bytes()).hexdigest()}
    with pytest.raises(WeightsError, match=r"is of v1, but --model-version says v1\.1"):
        resolve_checkpoint(str(path), version="v1.1")
    with pytest.raises(WeightsError, match="holds no vae weights"):
        resolve_checkpoint(str(path), decoder="full")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "is not a checkpoint of this project"),
        ({"format": "pt"}, "is not a checkpoint of this project"),
        ({"format": "flashvsr-cli", "format_version": "2", "version": "v1"}, "format version 2"),
        ({"format": "flashvsr-cli", "format_version": "1"}, "does not say which version"),
        ({"format": "flashvsr-cli", "format_version": "1", "version": "v3"}, "does not say which version"),
    ],
)
def test_other_safetensors_files_are_refused(tmp_path: Path, metadata: dict[str, str], message: str):
    path = write_single(tmp_path / "m.safetensors", ["dit.a"], **metadata)
    with pytest.raises(WeightsError, match=message):
        resolve_checkpoint(str(path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        b"not a safetensors file at all",
        struct.pack("<Q", 50) + b"{}",
        struct.pack("<Q", 4) + b"[[[[",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 8) + b'{"a": 1}',
        struct.pack("<Q", 62) + b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}' + b"short",
    ],
)
def test_damaged_headers_are_refused_with_the_files_name(tmp_path: Path, content: bytes):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"m\.safetensors is damaged") as raised:
        read_safetensors_header(path)
    assert "--force" in str(raised.value.next_step)
