"""`millrace init`: the starting repo, as files that are copied."""

import shutil
from pathlib import Path

STARTER = Path(__file__).parent / "starter"


def write(folder: Path) -> list[Path]:
    """Copy the starting repo into `folder`, which is made if it is not there; returns the files."""
    written = []
    for file in sorted(path for path in STARTER.rglob("*") if path.is_file()):
        target = folder / file.relative_to(STARTER)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        written.append(target)
    return written
