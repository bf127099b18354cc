"""`flashvsr weights` without a network; downloads are tested with the Hub on loopback in tests/unit."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from flashvsr_cli import weights_hub
from flashvsr_cli.cli.weights import app
from flashvsr_cli.console import fetching
from flashvsr_cli.errors import FlashVSRError, WeightsError
from flashvsr_cli.weights_check import CACHE_ENV, Progress, remembered_hash
from flashvsr_cli.weights_registry import REGISTRY_ENV

ROOT = Path(__file__).resolve().parents[2]
MINI = ROOT / "tests" / "golden" / "mini"
DIT = "diffusion_pytorch_model_streaming_dmd.safetensors"


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing of the real user's caches is read or written."""
    from huggingface_hub import constants

    monkeypatch.delenv(REGISTRY_ENV, raising=False)
    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "own"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("COLUMNS", "200")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def failure(*arguments: str) -> WeightsError:
    result = invoke(*arguments)
    assert isinstance(result.exception, WeightsError), result.output
    return result.exception


@pytest.mark.parametrize("arguments", [["--help"], ["list", "--help"], ["list"], ["list", "--json"]])
def test_listing_imports_no_torch(arguments: list[str], tmp_path: Path):
    code = "import sys; from flashvsr_cli.cli.weights import app\ntry: app()\n"
    code += "finally: assert not {'torch', 'av'} & set(sys.modules)"
    environment = {**os.environ, "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_list_as_a_table_and_as_json():
    table = invoke("list").stdout
    for part in (
        "v1.1 (default with a CUDA device)",
        "nano (default on a CPU)",
        "v1:",
        DIT,
        "LQ_proj_in.ckpt",
        "5,676.1 MB",
        "missing",
    ):
        assert part in table
    models = {model["name"]: model for model in json.loads(invoke("list", "--json").stdout)}
    assert set(models) == {"nano", "v1.1", "v1"}
    files = {file["role"]: file for file in models["v1"]["files"]}
    assert files["dit"]["expected"]["revision"] == "main"
    assert files["lq_projection"]["expected"]["inferred"] == ["bytes"]
    assert files["dit"]["state"] == "missing"
    assert files["dit"]["path"] is None


def test_verify_reads_an_unlisted_folder_through():
    result = invoke("verify", str(MINI), "--json")
    assert result.exit_code == 0, result.output
    (files,) = json.loads(result.stdout).values()
    assert {file["state"] for file in files} == {"unlisted"}
    for file in files:
        assert file["sha256"] == hashlib.sha256((MINI / file["file"]).read_bytes()).hexdigest()
        assert "finite" in file["detail"]
    assert remembered_hash(MINI / DIT) is not None
    assert f"verify {DIT}" in result.stderr


def test_verify_refuses_a_folder_with_a_damaged_or_a_missing_file(tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(MINI, folder)
    (folder / "LQ_proj_in.ckpt").write_bytes((MINI / "LQ_proj_in.ckpt").read_bytes()[:-1000])
    assert "LQ_proj_in.ckpt is damaged" in failure("verify", str(folder)).message
    shutil.copy(MINI / "LQ_proj_in.ckpt", folder)
    (folder / "Wan2.1_VAE.pth").unlink()
    assert invoke("verify", str(folder)).exit_code == 0, "the full decoder is a choice"
    (folder / "TCDecoder.ckpt").unlink()
    assert "TCDecoder.ckpt" in failure("verify", str(folder)).message


def test_verify_refuses_a_folder_of_two_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "model"
    shutil.copytree(MINI, folder)
    lines = ["format = 1", 'default = "m"', "[models.m]", 'version = "v1"', 'summary = "s"', 'license = "l"']
    lines.append('files = ["dit"]')
    for role, name, version in (("dit", DIT, "v1"), ("lq_projection", "LQ_proj_in.ckpt", "v1.1")):
        content = (MINI / name).read_bytes()
        lines += [f"[files.{role}]", f'role = "{role}"', f'versions = ["{version}"]', f"bytes = {len(content)}"]
        lines += ['repository = "some/model"', 'revision = "main"', f'path = "{name}"']
        lines += [f'sha256 = "{hashlib.sha256(content).hexdigest()}"']
    (tmp_path / "weights.toml").write_text("\n".join(lines))
    monkeypatch.setenv(REGISTRY_ENV, str(tmp_path / "weights.toml"))
    message = failure("verify", str(folder)).message
    assert f"{DIT} is of v1" in message
    assert "LQ_proj_in.ckpt is of v1.1" in message


def test_the_packaged_model_is_here_and_needs_no_download():
    assert "nano.safetensors" in invoke("download", "nano").stdout
    (names,) = [json.loads(invoke("verify", "--json").stdout)]
    assert list(names) == ["nano"], "the others have not been downloaded"
    (file,) = names["nano"]
    assert file["state"] == "verified"
    assert file["sha256"] == file["expected"]["sha256"]
    assert file["expected"]["repository"] is None


def test_a_damaged_packaged_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weights_hub, "PACKAGE", tmp_path)
    error = failure("download", "nano")
    assert error.message == "nano.safetensors cannot be downloaded."
    assert error.next_step == "Install flashvsr-cli again."
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/nano.safetensors").write_bytes(b"short")
    for arguments in (("download", "nano"), ("download", "nano", "--force"), ("verify", "nano")):
        assert failure(*arguments).next_step == "Install flashvsr-cli again."


def test_verify_with_nothing_here_and_of_an_unknown_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    error = failure("verify", "v7")
    assert "no model named 'v7'" in error.message
    assert "nano, v1.1, v1" in str(error.next_step)
    assert "is missing" in failure("verify", "v1.1").message
    lines = (ROOT / "weights.toml").read_text().replace('default_cpu = "nano"', "").replace("[models.nano]", "[unused]")
    (tmp_path / "weights.toml").write_text(lines)
    monkeypatch.setenv(REGISTRY_ENV, str(tmp_path / "weights.toml"))
    assert "No model has been downloaded" in failure("verify").message


def test_download_of_an_unknown_name_or_decoder():
    assert "no model named 'v7'" in failure("download", "v7").message
    result = invoke("download", "--decoder", "huge")
    assert result.exit_code == 2
    assert not isinstance(result.exception, FlashVSRError)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_as_bars_and_as_lines(is_terminal: bool):
    written = io.StringIO()
    console = Console(file=written, force_terminal=is_terminal, width=100)
    with fetching(quiet=False, console=console) as on_progress:
        for n_done in range(0, 5_000_001, 10_000):
            on_progress(Progress("LQ_proj_in.ckpt", "download", n_done, 5_000_000, 1, 4))
    assert "download LQ_proj_in.ckpt" in written.getvalue()
    assert "5.0/5.0 MB" in written.getvalue()
    assert ("(2/4)" in written.getvalue()) == is_terminal
    if not is_terminal:
        assert len(written.getvalue().splitlines()) == 2, "the first and the last; between them one every ten seconds"
