"""The functions of views, tried over some rows of their tables before anything is changed: what a misspelt column does
to all rows would otherwise be known by dead letters."""

import difflib
import re
import sys
from collections import Counter
from collections.abc import Collection
from contextlib import redirect_stdout
from dataclasses import replace

import pyarrow as pa

from millrace.check_repo import Plan
from millrace.validate import rows_of_source
from streams.changes import as_snapshot, contract_schema
from streams.declarations import DeclarationError
from streams.pipeline import Flow, process
from streams.views import StreamView, Unprojectable, project
from validation.trial import made_up_rows

TRIED = 48
"""Rows of a table."""

TELLING = 10
"""So many rows that a function fails on are no accident of their values."""

LONGEST_WORDS = 300

_TEXTS = ("made up 1", "made up 2", "made up 4")

_CERTAIN = re.compile(
    r"returned no column |returned \w+, not a |raised NameError: |raised AttributeError: 'DataFrame' object has no "
)
"""What no function says because of the values of its rows."""

_NO_KEY = re.compile(r"raised KeyError: '([^']+)'")

CLOSE = 0.7
"""How alike a key and a column are before the one is taken for the other, misspelt, and not for a value."""


def try_functions(plan: Plan) -> list[str]:
    """What is to be told of the views' functions that fail on some rows of their tables. Raises `DeclarationError` for
    one that is refused, `SourceUnavailable` and `EvaluationFailed`."""
    told = []
    for captured in plan.captured:
        for table in captured.tables:
            views = [v for v in plan.views if v.table.topic == table.topic and v.transform is not None]
            if not views:
                continue
            rows, _ = rows_of_source(captured.source, table, TRIED)
            flow = Flow(table, plan.contracts[table.topic], (), plan.personal[table.topic])
            with redirect_stdout(sys.stderr):  # a function may print; a command's stdout is its result
                told += [try_function(replace(flow, views=(view,)), rows) for view in views]
    return [words for words in told if words is not None]


def try_function(flow: Flow, rows: pa.Table) -> str | None:
    """Give rows of the table to the flow's one view as a worker does, and tell of a function that fails on some.

    Of rows that the contract rejects it gets none. Raises `DeclarationError` if it fails on each of many, or on all for
    what cannot come of their values. Where there are no rows, made-up ones are tried: it is refused for the latter.
    """
    (declared,) = flow.views
    view = replace(declared, event_time=None)  # it is the table's, not the function's, and may be null in old rows
    accepted = process(as_snapshot(flow.table, rows), replace(flow, views=(view,)))
    reasons = Counter(several[0] for stage, several in accepted.bad.values() if stage == "transform")
    failed, tried = reasons.total(), reasons.total() + len(accepted.changes)
    table = f"{flow.table.schema}.{flow.table.name}"
    if tried and not failed:
        return None
    made_up = _over_made_up(view)
    if not tried:
        words = _words(view, made_up or "")
        if _certain(view, words):
            where = f"on made-up rows of {table}, which has none to try"
            raise _refusal(view, f"its function fails {where}: {words}", words)
        return None
    ((reason, _),) = reasons.most_common(1)
    # What made-up rows give as well, whatever their values, quotes none of the table.
    words = _words(view, reason if reason == made_up else flow.personal.reason(reason))
    if failed == tried and (tried >= TELLING or _certain(view, words)):
        raise _refusal(
            view, f"its function fails on each of the {tried} rows of {table} that were tried: {words}", words
        )
    return (
        f"view {view.view.name}: its function fails on {failed} of the {tried} rows of {table} that were tried, which "
        f"become letters: {words}; millrace validate {flow.table.topic} --source looks at all rows"
    )


def _over_made_up(view: StreamView) -> str | None:
    """Why the view cannot take made-up rows, each for the same reason; None if it is otherwise."""
    rows = made_up_rows(contract_schema(view.table), _TEXTS)
    try:
        project(view, as_snapshot(view.table, rows))
    except Unprojectable as error:
        reasons = {several[0] for several in error.bad.values()}
        return reasons.pop() if len(reasons) == 1 and len(error.bad) == rows.num_rows else None
    return None


def _words(view: StreamView, reason: str) -> str:
    """A reason without the name of the view, which is told before it."""
    words = reason.removeprefix(f"view {view.view.name}: ").removeprefix("its function ")
    return words if len(words) <= LONGEST_WORDS else f"{words[:LONGEST_WORDS]}..."


def _refusal(view: StreamView, problem: str, words: str) -> DeclarationError:
    missing = _misspelt(view, words)
    instead = f"the table has no column {missing[0]}: did you mean {missing[1]}?" if missing else "mend the function"
    return DeclarationError(f"view {view.view.name}", problem, instead)


def _certain(view: StreamView, words: str) -> bool:
    return _CERTAIN.match(words) is not None or _misspelt(view, words) is not None


def _misspelt(view: StreamView, words: str) -> tuple[str, str] | None:
    """The key that a function did not find, and the column that it is nearly the name of."""
    columns = _columns(view)
    if (found := _NO_KEY.match(words)) is None or found[1] in columns:
        return None
    close = difflib.get_close_matches(found[1], columns, n=1, cutoff=CLOSE)
    return (found[1], close[0]) if close else None


def _columns(view: StreamView) -> Collection[str]:
    """What the function is given, by its names."""
    return {view.renames.get(field.name, field.name) for field in contract_schema(view.table)}
