"""Setting a feature repo up: init, apply."""

from pathlib import Path
from typing import Any

import click

from millrace.cli import Failed, Out, Places, shared


@click.command
@shared
def apply(places: Places, out: Out) -> None:
    """Check a feature repo against its databases and contracts, then set everything up.

    Nothing is changed unless all of it holds. Repeat it after every change of the repo: what is as declared
    is left alone.
    """
    from millrace.apply import apply as apply_repo
    from millrace.repo import open_repo

    out.result(apply_repo(open_repo(places.repo, places.stack), out.say), _show)


def _show(done: dict[str, Any]) -> str:
    views = "\n".join(f"  {name}: {kind} view" for name, kind in done["views"].items())
    fixed = "".join(f"\n  set in the database: {message}" for message in done["fixed"])
    anew = dict.fromkeys([*done["made_again"], *done["captured_again"], *done["to_resnapshot"]])
    steps = [] if done["workers"] else ["millrace run"]
    steps += [f"millrace recover {name}" for name in done["to_recover"]]
    steps += [f"millrace resnapshot {topic}" for topic in anew]
    steps += [f"millrace backfill --view {name}" for name in done["to_backfill"]]
    following = f"\nnext: {', then '.join(steps)}" if steps else "\nthe workers go by it"
    return f"project {done['project']} is set up\n{views}{fixed}{following}"


@click.command
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@shared
def init(places: Places, out: Out, folder: Path) -> None:
    """Make a commented starting feature repo in FOLDER, which applies and runs on the local stack."""
    from millrace.template import write

    try:
        if folder.exists() and any(folder.iterdir()):
            raise Failed(f"{folder} is not empty: name a new folder")
        files = write(folder)
    except OSError as error:
        raise Failed(f"{folder} cannot be made: {error.strerror}: name a folder that can be written") from error
    out.result(
        {"folder": str(folder), "files": [str(f) for f in files]},
        lambda done: "\n".join(["made", *(f"  {f}" for f in done["files"]), f"next: read {folder}/README.md"]),
    )
