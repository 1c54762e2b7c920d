"""The functions of views, which Feast keeps in its registry: pickled, with the names of what else they need."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dill
from feast import OnDemandFeatureView, StreamFeatureView
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto

_DILL = Path(dill.__file__).parent


class FunctionUnloadable(Exception):
    """A view's function cannot be loaded in this process; the text says which, why, and what to do."""

    def __init__(self, view: str, error: Exception) -> None:
        place = _place(error)
        why = f"{type(error).__name__}: {error}{place and f' ({place})'}"
        super().__init__(
            f"view {view}: its function cannot be loaded here: {why}; install the package that it needs, or put its "
            "module in the repo right, as it was when it was applied"
        )


@contextmanager
def loading(registry: Callable[[], RegistryProto], project: str) -> Iterator[None]:
    """Reads views of a registry in the block. Raises `FunctionUnloadable` if that fails for a function of them."""
    try:
        yield
    except Exception:
        message = registry()
        for kind, views in (
            (StreamFeatureView, message.stream_feature_views),
            (OnDemandFeatureView, message.on_demand_feature_views),
        ):
            for view in views:
                if view.spec.project == project:
                    _load(kind, view)
        raise


def _load(kind: type[StreamFeatureView | OnDemandFeatureView], view: object) -> None:
    try:
        kind.from_proto(view)
    except Exception as error:
        raise FunctionUnloadable(view.spec.name, error) from error  # type: ignore[attr-defined]  # either's message


def _place(error: Exception) -> str:
    """The file and line that raised it, if it is code of a module that the function needs."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    raised = frames[-1]
    return "" if Path(raised.filename).is_relative_to(_DILL) else f"{raised.filename}, line {raised.lineno}"
