"""`python -m flashvsr_cli` and the `flashvsr` command."""

import sys
from typing import NoReturn

from flashvsr_cli.errors import InterruptError
from flashvsr_cli.interrupts import raise_on_signals


def main() -> NoReturn:
    """`cli.app.main`, which takes a while to load."""
    raise_on_signals()
    try:
        from flashvsr_cli.cli.app import main as run
    except InterruptError as interrupt:
        sys.exit(interrupt.exit_code)
    run()


if __name__ == "__main__":
    main()
