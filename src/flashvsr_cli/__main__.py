"""`python -m flashvsr_cli` and the `flashvsr` command."""

import sys
from typing import NoReturn

from flashvsr_cli.errors import InterruptError
from flashvsr_cli.interrupts import raise_on_signals


def main() -> NoReturn:
    """`cli.app.main`, which takes a while to load."""
    try:
        raise_on_signals()
        from flashvsr_cli.cli.app import main as run

        run()
    except InterruptError as interrupt:
        # It came while modules were loading, or when the command had said everything.
        sys.exit(interrupt.exit_code)


if __name__ == "__main__":
    main()
