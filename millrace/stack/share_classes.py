"""Archives of the classes of Kafka and Kafka Connect beside their jars: with them both start in two thirds of the
processor time (https://openjdk.org/jeps/350). Made by one start and stop of a stack; without them all works as well.

Run: python -m millrace.stack.share_classes
"""

import tempfile
from pathlib import Path

from millrace.stack.jars import default_jars
from millrace.stack.stack import Stack


def main() -> None:
    """Make the archives."""
    with tempfile.TemporaryDirectory(prefix="millrace-classes-") as name:
        Path(name).chmod(0o755)  # PostgreSQL, which never runs as root, must come into it
        stack = Stack(Path(name), default_jars(), sharing=True, brief=True)
        try:
            stack.up()
        finally:
            stack.down()


if __name__ == "__main__":
    main()
