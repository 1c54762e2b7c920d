"""What a library's exception says, without the values that it was given: of a configuration they may be passwords."""

import re
from collections.abc import Iterator

import yaml
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError

_QUOTED = re.compile(r"'[^'<][^']+'|\"[^\"<][^\"]+\"")


def said(error: BaseException) -> str:
    """The words of an error for people. Of what pydantic, YAML or a database refuses, be it behind other errors, only
    place and reason are told: their own words quote the section, the line or the statement's values."""
    return next(filter(None, map(_told, _with_causes(error))), str(error))


def said_by_module(error: BaseException) -> str:
    """The same of an error that somebody's module raised: in its own words, but for what it quotes of another's."""
    words = str(error)
    for cause in _with_causes(error):
        if told := _told(cause):
            words = words.replace(str(cause), told)
    return words


def _told(error: BaseException) -> str | None:
    """Place and reason of a refusal, None for another error."""
    if isinstance(error, ValidationError):
        refused = error.errors(include_url=False, include_context=False, include_input=False)
        return "; ".join(": ".join(filter(None, (".".join(map(str, one["loc"])), one["msg"]))) for one in refused)
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return f"{place}{_QUOTED.sub('...', error.problem or 'it is not YAML')}"
    return str(error.orig) if isinstance(error, DBAPIError) else None


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
