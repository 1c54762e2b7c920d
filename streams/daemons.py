"""Threads that no end of the process waits for."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")


class Daemons(Executor):
    """Each call on a thread of its own, which ends with the process: a pool's threads would keep it until they are
    done."""

    def submit(self, fn: Callable[Given, Result], /, *args: Given.args, **kwargs: Given.kwargs) -> Future[Result]:
        future = Future[Result]()

        def call() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001  # as a thread pool does: it is whoever asks who fails
                future.set_exception(error)

        threading.Thread(target=call, name="daemon", daemon=True).start()
        return future
