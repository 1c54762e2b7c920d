"""The Python modules of a feature repo: by which names they are imported, and what else has these names."""

import sys
from pathlib import Path

from feast.repo_operations import get_repo_files

from millrace.cli import PACKAGES
from streams.declarations import DeclarationError


def importable(folder: Path) -> None:
    """From now on the modules of a repo are found, after all others: what Feast keeps of a view's function names the
    modules of its helpers."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def check_names(folder: Path) -> None:
    """Raises `DeclarationError` for a file that Feast does not read because its name is another module's: it imports
    each by its name (`feast.repo_operations.parse_repo`), and Python gives it what was imported before."""
    for file in get_repo_files(folder):
        if not file.is_relative_to(folder):  # a link, which Feast refuses itself
            continue
        place = file.relative_to(folder)
        name = ".".join(place.with_suffix("").parts)
        if other := _other(name, file):
            raise DeclarationError(str(place), f"Feast imports it as {name}, which is {other}", "rename it")


def _other(name: str, file: Path) -> str | None:
    """What a module's name stands for, if it is not the file."""
    package = name.partition(".")[0]
    if package in PACKAGES:
        return f"millrace's own package {package}"
    if package in sys.stdlib_module_names:
        return f"the standard library's {package}"
    module = sys.modules.get(name)
    found = getattr(module, "__file__", None) or "built in"
    return None if module is None or Path(found).resolve() == file else f"another module ({found})"
