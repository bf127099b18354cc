"""`python -m flashvsr_cli.train CONFIG -o FOLDER`, the form that torchrun starts; the same as `flashvsr train run`."""

import argparse
import logging
import sys
from pathlib import Path

from flashvsr_cli.errors import FlashVSRError
from flashvsr_cli.train.config_file import read_stage_config
from flashvsr_cli.train.loop import train


def main() -> int:
    """Parse, train, and turn errors into sentences."""
    parser = argparse.ArgumentParser(prog="python -m flashvsr_cli.train", description="Run one training stage.")
    parser.add_argument("config", type=Path, help="the stage's TOML")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's training state")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        train(read_stage_config(options.config, tuple(options.set)), options.output, resume=options.resume)
    except FlashVSRError as error:
        sys.stderr.write(f"{error.message} {error.next_step or ''}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
