"""`python -m flashvsr_cli` and the `flashvsr` command."""

from flashvsr_cli.cli.app import main

if __name__ == "__main__":
    main()
