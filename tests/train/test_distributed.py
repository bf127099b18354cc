"""Two processes with FSDP2 train what one process trains."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

CONFIG = """
stage = "onestep"
n_steps = 3
batch = 2
pack = 1
train = ["dit", "projection", "decoder"]
lora_rank = {rank}
[model]
dim = 32
head_dim = 16
n_blocks = 2
ffn_dim = 32
freq_dim = 16
projection = [4, 8]
decoder = [16, 8, 8, 4]
encoder = 8
[sparsity]
sparse_ratio = 0.02
local_range = 3
color_fix = "none"
[data]
procedural = 1.0
size = 128
pool_clips = 2
workers = 1
[optimizer]
lr = 1e-3
ema = 0.5
[validation]
every = -1
[run]
device = "cpu"
log_every = 1
"""


def run_training(config: Path, folder: Path, n_processes: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m"]
    if n_processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command += ["torch.distributed.run", "--nproc-per-node", str(n_processes), "--master-addr", "127.0.0.1"]
        command += ["--master-port", str(port), "-m"]
    command += ["flashvsr_cli.train", str(config), "-o", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("rank", [0, 2])
def test_two_processes_give_the_loss_curve_of_one(tmp_path: Path, rank: int) -> None:
    config = tmp_path / "stage.toml"
    config.write_text(CONFIG.format(rank=rank))
    curves = {}
    for n_processes in (1, 2):
        folder = tmp_path / str(n_processes)
        run_training(config, folder, n_processes)
        records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        numbers = [record for record in records if "loss" in record]
        curves[n_processes] = np.array([[n["loss"], n["pixel"], n["dmd"], n["norm"], n["fake_norm"]] for n in numbers])
    assert curves[1].shape == (3, 5)
    np.testing.assert_allclose(curves[2], curves[1], rtol=1e-3, atol=2e-6)
