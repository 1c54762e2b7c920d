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
    for cause in _with_causes(error):
        if isinstance(cause, ValidationError):
            return "; ".join(
                ": ".join(filter(None, (".".join(map(str, one["loc"])), one["msg"])))
                for one in cause.errors(include_url=False, include_context=False, include_input=False)
            )
        if isinstance(cause, yaml.MarkedYAMLError):
            mark = cause.problem_mark
            place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
            return f"{place}{_QUOTED.sub('...', cause.problem or 'it is not YAML')}"
        if isinstance(cause, DBAPIError):
            return str(cause.orig)
    return str(error)


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
