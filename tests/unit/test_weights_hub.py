"""Downloads over a real HTTP server that speaks as much of the Hub's protocol as huggingface_hub needs.

The server, `hub`, and the machine that downloads, `machine`, are fixtures of conftest.py.
"""

import hashlib
import json
import signal
import socket
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from flashvsr_cli.errors import WeightsError
from flashvsr_cli.weights_hub import fetch_partial

CHUNK_BYTES = 10 * 1024 * 1024  # what huggingface_hub writes at a time
DIT = "diffusion_pytorch_model_streaming_dmd.safetensors"
FILES = {DIT, "LQ_proj_in.ckpt", "TCDecoder.ckpt", "Wan2.1_VAE.pth", "Prompt.safetensors"}


def test_downloads_what_the_decoder_needs_into_the_hubs_cache(hub, machine, contents):
    code, out, err = machine.run("download", "--json", HF_TOKEN="hf_secret")
    assert code == 0, err
    paths = [Path(path) for path in json.loads(out)["files"]]
    assert {path.name for path in paths} == FILES - {"Wan2.1_VAE.pth"}
    for path in paths:
        assert path.read_bytes() == contents[path.name]
        assert path.parent == machine.folder / "hf/hub/models--some--model/snapshots" / hub.commit
    assert not hub.asked("GET", "Wan2.1_VAE.pth")
    assert not machine.partials
    # The token goes to the Hub and not to the storage on another host.
    assert {headers.get("authorization") for headers in hub.asked("GET", "/resolve/")} == {"Bearer hf_secret"}
    assert {headers.get("authorization") for headers in hub.asked("GET", "/storage/")} == {None}
    # Plain progress, because stderr is no terminal.
    assert f"download {DIT}: 15.7/15.7 MB" in err
    assert machine.states() == {**dict.fromkeys(FILES, "verified"), "Wan2.1_VAE.pth": "missing"}

    n_requests = len(hub.requests)
    assert machine.run("download", HF_HUB_OFFLINE="1")[0] == 0, "a filled cache needs no network"
    assert machine.run("download", "m", "--decoder", "full")[0] == 0
    asked = [path for _, path, _ in hub.requests[n_requests:]]
    assert asked
    assert all(path.endswith("Wan2.1_VAE.pth") for path in asked), "what is verified is not asked for again"


def test_files_in_xet_storage_come_over_plain_http(hub, machine, contents):
    hub.is_xet = True
    code, out, err = machine.run("download", "--json")
    assert code == 0, err
    for path in map(Path, json.loads(out)["files"]):
        assert path.read_bytes() == contents[path.name]
    assert not hub.asked("GET", "xet-auth")


def test_a_cut_connection_is_resumed_with_a_range(hub, machine, contents):
    hub.cut_after = [CHUNK_BYTES + 5000]
    code, out, err = machine.run("download", "--json")
    assert code == 0, err
    ranges = [headers.get("range") for headers in hub.asked("GET", f"/storage/{DIT}")]
    assert ranges == [None, f"bytes={CHUNK_BYTES}-"]
    path = next(Path(path) for path in json.loads(out)["files"] if DIT in path)
    assert path.read_bytes() == contents[DIT]


@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_killed_download_is_resumed_by_the_next_process(hub, machine, contents, how, code):
    hub.stall_after = CHUNK_BYTES + 5000
    process = machine.start("download")
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size >= CHUNK_BYTES for path in machine.partials):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(how)
    process.communicate(timeout=10)
    assert process.returncode == code
    assert machine.states()[DIT] == "missing", "a partial file is not taken for the file"

    hub.stall_after = None
    code, out, err = machine.run("download", "--json")
    assert code == 0, err
    assert [headers.get("range") for headers in hub.asked("GET", f"/storage/{DIT}")] == [None, f"bytes={CHUNK_BYTES}-"]
    path = next(Path(path) for path in json.loads(out)["files"] if DIT in path)
    assert path.read_bytes() == contents[DIT]
    assert not machine.partials


def test_two_downloads_at_once_fetch_once(hub, machine):
    processes = [machine.start("download") for _ in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert len(hub.asked("GET", f"/storage/{DIT}")) == 1


def test_a_partial_file_with_other_bytes_does_not_get_through(hub, machine, contents):
    blobs = machine.folder / "hf/hub/models--some--model/blobs"
    blobs.mkdir(parents=True)
    partial = blobs / f"{hashlib.sha256(contents[DIT]).hexdigest()}.flashvsr.incomplete"
    partial.write_bytes(bytes(5000))
    assert DIT in machine.fail("download")
    assert hub.asked("GET", f"/storage/{DIT}")[0]["range"] == "bytes=5000-"
    assert machine.run("download")[0] == 0, "the next attempt begins anew"


def test_too_little_space_is_said_before_anything_is_fetched(tmp_path: Path):
    with pytest.raises(WeightsError, match=r"too little space for 1000000\.0 GB") as raised:
        fetch_partial("http://127.0.0.1:9/unused", tmp_path / "partial", 10**15, lambda _: None)
    assert "HF_HOME" in str(raised.value.next_step)


def test_wrong_contents_are_refused_and_not_kept(hub, machine, contents):
    hub.files["TCDecoder.ckpt"] = bytes(len(contents["TCDecoder.ckpt"]))
    sentence = machine.fail("download")
    expected = hashlib.sha256(contents["TCDecoder.ckpt"]).hexdigest()
    actual = hashlib.sha256(hub.files["TCDecoder.ckpt"]).hexdigest()
    for part in ("TCDecoder.ckpt", expected[:12], actual[:12], "flashvsr weights download m --force"):
        assert part in sentence
    assert not machine.partials
    assert "TCDecoder.ckpt" not in {path.name for path in machine.snapshots}
    hub.files = dict(contents)
    assert machine.run("download")[0] == 0


def test_a_file_of_another_size_is_refused_before_it_is_fetched(hub, machine, contents):
    hub.files[DIT] = contents[DIT][:-1]
    sentence = machine.fail("download")
    assert f"{len(contents[DIT]) - 1} bytes instead of {len(contents[DIT])}" in sentence
    assert not hub.asked("GET", DIT)


def test_a_file_spoilt_in_the_cache_is_noticed_and_force_mends_it(machine, contents):
    assert machine.run("download")[0] == 0
    (spoilt,) = (path for path in machine.snapshots if path.name == "LQ_proj_in.ckpt")
    blob = spoilt.resolve()
    blob.write_bytes(bytes(len(contents["LQ_proj_in.ckpt"])))
    assert machine.states()["LQ_proj_in.ckpt"] == "present", "changed, so no longer verified"
    assert "flashvsr weights download m --force" in machine.fail("download")
    assert "LQ_proj_in.ckpt of m is not what it should be" in machine.fail("verify", "m")
    assert machine.run("download", "m", "--force")[0] == 0
    assert spoilt.read_bytes() == contents["LQ_proj_in.ckpt"]
    code, out, _ = machine.run("verify", "--json")
    assert code == 0
    assert {file["state"] for file in json.loads(out)["m"]} == {"verified", "missing"}


@pytest.mark.parametrize(
    ("status", "error_code", "parts"),
    [
        (404, "RepoNotFound", ("404", "HF_ENDPOINT", "--model FOLDER")),
        (404, "RevisionNotFound", ("404", "revision main")),
        (401, "", ("401", "HF_TOKEN")),
        (403, "GatedRepo", ("403", "HF_TOKEN")),
        (418, "", ("418", "Try again later")),
    ],
)
def test_a_refusal_is_one_sentence(hub, machine, status, error_code, parts):
    hub.status, hub.error_code = status, error_code
    sentence = machine.fail("download")
    for part in (*parts, DIT, "some/model", f"http://127.0.0.1:{hub.port}"):
        assert part in sentence
    assert "\n" not in sentence


def test_a_missing_file_is_a_404(hub, machine):
    del hub.files["TCDecoder.ckpt"]
    sentence = machine.fail("download")
    assert "TCDecoder.ckpt of some/model cannot be downloaded" in sentence
    assert "404" in sentence


def test_no_network_names_the_endpoint_and_the_way_round(machine):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        sentence = machine.fail("download", HF_ENDPOINT=endpoint)
    for part in (DIT, endpoint, "no connection", "HF_ENDPOINT", "--model FOLDER"):
        assert part in sentence


def test_a_silent_server_is_given_up(hub, machine):
    hub.stall_head = True
    assert "does not answer in time" in machine.fail("download", HF_HUB_ETAG_TIMEOUT="1")


def test_offline_with_an_empty_cache(hub, machine):
    sentence = machine.fail("download", HF_HUB_OFFLINE="1")
    assert f"{DIT} of some/model is not in the cache and HF_HUB_OFFLINE is set." in sentence
    assert not hub.requests


def test_a_server_that_is_no_hub(machine, serve):
    class Plain(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

    sentence = machine.fail("download", HF_ENDPOINT=f"http://127.0.0.1:{serve(Plain)}")
    assert "is not answered by a Hugging Face Hub" in sentence
    assert "HF_ENDPOINT" in sentence
