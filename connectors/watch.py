"""Failed tasks restarted while nobody watches: Kafka Connect never restarts one by itself."""

import logging
import threading
from collections.abc import Sequence

from connectors.connect import Connect, ConnectorState, ConnectRefused, ConnectUnavailable

log = logging.getLogger(__name__)

SECONDS = 10.0

CLOSE_SECONDS = 1.0


class Watch:
    """Looks at connectors every `seconds` on a thread of its own, and restarts those of their tasks whose
    failure passes by itself. What keeps one from running is logged once, until it changes."""

    def __init__(self, connect: Connect, names: Sequence[str], seconds: float = SECONDS) -> None:
        self._connect = connect
        self._names = names
        self._seconds = seconds
        self._said: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="connectors", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking. A look under way is waited for, but not long: a process that ends beside one prints what of its
        native modules it could not free."""
        self._stop.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            for name in self._names:
                self._say(name, self._look(name))

    def _look(self, name: str) -> str | None:
        """What keeps a connector from running, empty if it runs; None while it starts."""
        try:
            self._connect.restart_failed(name)
            return _trouble(self._connect.state(name))
        except (ConnectUnavailable, ConnectRefused) as error:
            return str(error)

    def _say(self, name: str, trouble: str | None) -> None:
        if trouble is None:
            return
        before, self._said[name] = self._said.get(name, ""), trouble
        if trouble and trouble != before:
            log.error("connector %s: %s", name, trouble, extra={"event": "connector_failed", "connector": name})
        elif before and not trouble:
            log.info("connector %s runs again", name, extra={"event": "connector_back", "connector": name})


def _trouble(state: ConnectorState | None) -> str | None:
    """See `Watch._look`. A rebalance or a restart of Connect's passes through states that are no news."""
    if state is None:
        return "it does not exist: run millrace apply"
    if state.state in ("STOPPED", "PAUSED"):
        return f"it is {state.state}: millrace apply has it run again, unless a recover of the source is under way"
    if state.failures:
        return "; ".join(failure.reason for failure in state.failures)
    return "" if state.running else None
