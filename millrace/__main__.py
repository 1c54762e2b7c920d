"""The command `millrace`, also as `python -m millrace`."""

import sys


def main() -> None:
    """Run the command line. Ctrl-C ends it without a traceback, also while its modules are being imported."""
    try:
        from millrace.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
