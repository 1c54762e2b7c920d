"""The console's pages as HTML, by Jinja's templates with escaping always on. The one door to Jinja."""

from pathlib import Path
from typing import Any

import jinja2

from serving.console.look_up import moment

FOLDER = Path(__file__).parent / "templates"
STYLE = (FOLDER / "style.css").read_bytes()


def duration(seconds: float | None) -> str:
    """Seconds for people, in their two largest units."""
    if seconds is None:
        return "–"
    if seconds < 0:
        return f"{duration(-seconds)} ahead"
    if seconds < 1:
        return f"{seconds * 1_000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, hours = divmod(int(seconds), 60), divmod(int(seconds) // 60, 60)
    if seconds < 3_600:
        return f"{minutes[0]} min {minutes[1]} s"
    if seconds < 86_400:
        return f"{hours[0]} h {hours[1]} min"
    return f"{int(seconds) // 86_400:,} d {hours[0] % 24} h"


def size(count: int | None) -> str:
    """Bytes for people."""
    if count is None:
        return "–"
    amount = float(count)
    for unit in ("B", "KB", "MB"):
        if amount < 1_000:
            return f"{amount:,.0f} {unit}"
        amount /= 1_000
    return f"{amount:,.1f} GB"


def number(count: int | None) -> str:
    """A count for people."""
    return "–" if count is None else f"{count:,}"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=duration, size=size, number=number, moment=moment)
    return environment


_ENVIRONMENT = _environment()


def page(template: str, **values: Any) -> bytes:
    """A page; every value is escaped."""
    return _ENVIRONMENT.get_template(f"{template}.html").render(values).encode("utf-8", "replace")
