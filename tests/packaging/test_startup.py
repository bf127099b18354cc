"""Importing the package and asking for help load neither torch nor av, and take no time."""

import json
import os
import re
import resource
import subprocess
import sys

import pytest

from flashvsr_cli.torch_defaults import set_torch_defaults

HEAVY = {"torch", "av", "numpy", "triton", "huggingface_hub", "safetensors"}
LIMIT_S = 0.5

COMMANDS = [
    [],
    ["upscale"],
    ["batch"],
    ["info"],
    ["doctor"],
    ["bench"],
    ["weights"],
    ["weights", "list"],
    ["weights", "download"],
    ["weights", "verify"],
]


def imported_by(command: list[str]) -> set[str]:
    """Top-level names of all modules that a run imports, as Python itself reports them."""
    done = subprocess.run([sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=True)
    return set(re.findall(r"^import time:.*\|\s+(\w+)", done.stderr, re.MULTILINE))


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: " ".join(arguments) or "flashvsr")
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    names = imported_by(["-m", "flashvsr_cli", *arguments, "--help"])
    assert "flashvsr_cli" in names
    assert not names & HEAVY


def test_version_loads_nothing_heavy() -> None:
    assert not imported_by(["-m", "flashvsr_cli", "--version"]) & HEAVY


def test_the_import_report_would_show_torch() -> None:
    assert "torch" in imported_by(["-c", "import torch"])


def test_import_loads_nothing_heavy() -> None:
    code = (
        "import json, sys, flashvsr_cli; flashvsr_cli.Settings(); "
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(json.loads(done.stdout)) & HEAVY


def test_upscaler_is_loaded_on_first_use() -> None:
    code = (
        "import sys, flashvsr_cli; assert 'torch' not in sys.modules; "
        "from flashvsr_cli import Upscaler; assert 'torch' in sys.modules; assert callable(Upscaler.load)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_are_attribute_errors() -> None:
    import flashvsr_cli

    with pytest.raises(AttributeError, match="nonsense"):
        _ = flashvsr_cli.nonsense


@pytest.mark.parametrize(
    ("said", "added"),
    [
        ({}, {"GOMP_SPINCOUNT", "THP_MEM_ALLOC_ENABLE"}),
        ({"GOMP_SPINCOUNT": "7"}, {"THP_MEM_ALLOC_ENABLE"}),
        ({"OMP_WAIT_POLICY": "active", "THP_MEM_ALLOC_ENABLE": "0"}, set()),
    ],
    ids=["nothing", "spins", "policy and pages"],
)
def test_what_the_user_says_of_threads_and_pages_stays(said: dict[str, str], added: set[str]) -> None:
    environment = dict(said)
    set_torch_defaults(environment)
    assert environment.keys() - said.keys() == added
    assert environment.items() >= said.items()


def test_torch_is_loaded_with_these_defaults() -> None:
    code = (
        "import os, sys; from flashvsr_cli.cli import app; sys.argv[1:] = ['--version']\n"
        "try: app.main()\n"
        "finally: print('torch' in sys.modules, 'GOMP_SPINCOUNT' in os.environ)"
    )
    unset = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=unset)
    assert done.stdout.splitlines()[-1] == "False True"


@pytest.mark.parametrize(
    "command", [["-c", "import flashvsr_cli"], ["-m", "flashvsr_cli", "--help"]], ids=["import", "help"]
)
def test_start_takes_less_than_half_a_second(command: list[str]) -> None:
    def processor_seconds() -> float:
        # Not the clock on the wall: other processes share the machine.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], check=True, capture_output=True, env=dict(os.environ))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    assert min(processor_seconds() for _ in range(3)) < LIMIT_S
