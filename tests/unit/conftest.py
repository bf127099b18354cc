"""A Hub on loopback and a user's machine, for the tests that download.

huggingface_hub reads its environment when imported, so every download runs in a process of its own, through the
`flashvsr weights` command.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

COMMIT = "c0ffee" + "0" * 34
CHUNK_BYTES = 10 * 1024 * 1024  # what huggingface_hub writes at a time
BIG_BYTES = CHUNK_BYTES * 3 // 2

CLI = """
import json, sys
from flashvsr_cli.cli.weights import app
from flashvsr_cli.errors import FlashVSRError
try:
    sys.exit(app(standalone_mode=False))
except FlashVSRError as error:
    print(json.dumps({"kind": type(error).__name__, "message": error.message, "next_step": error.next_step}))
    sys.exit(1)
finally:
    assert "torch" not in sys.modules
"""


@dataclass
class Hub:
    """What the server holds, what it was asked, and what it does wrong."""

    files: dict[str, bytes]
    port: int = 0
    commit: str = COMMIT
    status: int = 200
    error_code: str = ""
    is_xet: bool = False
    cut_after: list[int] = field(default_factory=list)
    stall_after: int | None = None
    stall_head: bool = False
    released: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def asked(self, method: str, part: str) -> list[dict[str, str]]:
        """The headers of the requests whose path holds `part`."""
        return [headers for kind, path, headers in self.requests if kind == method and part in path]


class Handler(BaseHTTPRequestHandler):
    """Like the Hub: /REPO/resolve/REVISION/FILE answers with the facts and redirects to storage on another host."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.hub
        hub.requests.append((self.command, self.path, {key.lower(): value for key, value in self.headers.items()}))
        if hub.stall_head and self.command == "HEAD":
            hub.released.wait(30)
        if hub.status != 200:
            return self._plain(hub.status, {"X-Error-Code": hub.error_code} if hub.error_code else {})
        name = self.path.rsplit("/", 1)[-1]
        if name not in hub.files:
            return self._plain(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        if "/resolve/" in self.path:
            return self._redirect(name, hub.files[name])
        return self._storage(hub.files[name])

    def _plain(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(key, value)
        self.end_headers()

    def _redirect(self, name: str, content: bytes) -> None:
        headers = {
            "Location": f"http://localhost:{self.hub.port}/storage/{name}",
            "X-Repo-Commit": COMMIT,
            "X-Linked-Etag": f'"{hashlib.sha1(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
        }
        if self.hub.is_xet:
            headers["X-Xet-Hash"] = "ab" * 32
            headers["Link"] = f'<http://localhost:{self.hub.port}/xet-auth>; rel="xet-auth"'
        self._plain(302, headers)

    def _storage(self, content: bytes) -> None:
        hub = self.hub
        begin = 0
        if wanted := self.headers.get("Range"):
            begin = int(wanted.removeprefix("bytes=").split("-")[0])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        if hub.stall_after is not None:
            self.wfile.write(content[begin : hub.stall_after])
            hub.released.wait(30)
            self.close_connection = True
        elif hub.cut_after:
            self.wfile.write(content[begin : begin + hub.cut_after.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(content[begin:])


@pytest.fixture
def contents() -> dict[str, bytes]:
    """Files of a model; the DiT is larger than what is written at a time."""
    noise = random.Random(0)
    names = ["LQ_proj_in.ckpt", "TCDecoder.ckpt", "Wan2.1_VAE.pth", "Prompt.safetensors"]
    small = {name: noise.randbytes(1000 + i) for i, name in enumerate(names)}
    return {"diffusion_pytorch_model_streaming_dmd.safetensors": noise.randbytes(BIG_BYTES), **small}


@pytest.fixture
def hub(contents: dict[str, bytes], serve: Callable[..., int]) -> Iterator[Hub]:
    hub = Hub(dict(contents))
    hub.port = serve(type("BoundHandler", (Handler,), {"hub": hub}))
    yield hub
    hub.released.set()


DIT = "diffusion_pytorch_model_streaming_dmd.safetensors"
ROLES = {
    DIT: "dit",
    "LQ_proj_in.ckpt": "lq_projection",
    "TCDecoder.ckpt": "tiny_decoder",
    "Wan2.1_VAE.pth": "vae",
    "Prompt.safetensors": "prompt",
}


@dataclass
class Machine:
    """A user's machine: its environment and its caches."""

    folder: Path
    env: dict[str, str]

    def start(self, *arguments: str, **env: str) -> "subprocess.Popen[str]":
        """`flashvsr weights ARGUMENTS` with more environment variables."""
        return subprocess.Popen(
            [sys.executable, "-c", CLI, *arguments],
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **env: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **env)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def fail(self, *arguments: str, **env: str) -> str:
        """The message and next step of a command that has to fail with a WeightsError."""
        code, out, err = self.run(*arguments, **env)
        assert code == 1, (out, err)
        failure = json.loads(out.splitlines()[-1])
        assert failure["kind"] == "WeightsError"
        assert failure["next_step"].endswith(".")
        return f"{failure['message']} {failure['next_step']}"

    def states(self, **env: str) -> dict[str, str]:
        """File name to state, from `flashvsr weights list --json`."""
        code, out, err = self.run("list", "--json", **env)
        assert code == 0, err
        return {file["file"]: file["state"] for model in json.loads(out) for file in model["files"]}

    @property
    def partials(self) -> list[Path]:
        return list(self.folder.rglob("*.incomplete"))

    @property
    def snapshots(self) -> list[Path]:
        return [path for path in self.folder.rglob("snapshots/*/*") if path.is_file()]


@pytest.fixture
def machine(hub: Hub, contents: dict[str, bytes], tmp_path: Path) -> Machine:
    lines = ["format = 1", 'default = "m"', "[models.m]", 'version = "v1.1"', 'summary = "s"', 'license = "l"']
    lines.append(f"files = {json.dumps(list(ROLES.values()))}")
    for name, role in ROLES.items():
        lines += [f"[files.{role}]", f'role = "{role}"', 'versions = ["v1.1"]', 'repository = "some/model"']
        lines += ['revision = "main"', f'path = "{name}"', f"bytes = {len(contents[name])}"]
        lines += [f'sha256 = "{hashlib.sha256(contents[name]).hexdigest()}"']
    registry = tmp_path / "weights.toml"
    registry.write_text("\n".join(lines))
    kept = {key: os.environ[key] for key in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if key in os.environ}
    env = {
        **kept,
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.port}",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "FLASHVSR_CACHE_DIR": str(tmp_path / "own"),
        "FLASHVSR_WEIGHTS_TOML": str(registry),
    }
    return Machine(tmp_path, env)
