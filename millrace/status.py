"""`millrace status`: the services, the connectors, the workers and how far behind they are, in one screen.

All are asked at the same time, and none of the services for longer than ten seconds or so: one that hangs is why status
is asked. A lake in an object store is waited for as long as its own client tries.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any

from connectors.check_slot import went_back
from connectors.connect import ConnectorState, ConnectRefused, ConnectUnavailable
from connectors.debezium import not_included
from connectors.health import slot_health
from connectors.lock import holder
from connectors.slots import no_slot, slot_problems
from connectors.source import SourceUnavailable
from connectors.table_file import loads
from millrace.altered import altered_tables
from millrace.made_again import Dropped, dropped
from millrace.repo import Repo
from millrace.wiring import connect, lake, no_source, online, source, topics, vectors
from millrace.workers import running_workers, starting_workers
from serving.applied import check
from stores.errors import RegistryUnreadable, StoreRefused, StoreUnavailable
from stores.feast_functions import FunctionUnloadable
from stores.lake import property_of
from streams.broker import BrokerUnavailable
from streams.decide import changes_table
from streams.declarations import DeclarationError, Declared, source_of
from streams.drift import TABLE_PROPERTY
from streams.redelivered import begun_anew
from streams.snapshots import unreconciled

SECONDS = 5
"""That a service has to answer in."""

Ask = Callable[[list[str]], Any]
"""Asks for one part of the status, and adds to the problems."""

START_SECONDS = 10.0
"""That workers of this machine have to start in before status says that none listens."""

LOOK_SECONDS = 0.2


def repo_status(repo: Repo) -> dict[str, Any]:
    """What runs for a feature repo. `problems` names everything that is wrong, each once; empty if nothing is."""
    problems: list[str] = []
    known = _declared(repo, problems)
    declared = known or []
    views = _views(repo, declared, problems)
    captured = sorted(views)
    # No other has a connector or a slot, where it is known which are captured.
    sources = sorted(repo.settings.sources if known is None else {source_of(topic) for topic in captured})
    parts: dict[str, Ask] = {
        "connectors": partial(_connectors, repo, sources),
        "uncaptured": partial(_uncaptured, repo, views),
        "slots": partial(_slots, repo, sources),
        "stores": partial(_stores, repo),
        "workers": partial(_workers, repo),
        "lag": partial(_lag, repo, sorted({one.topic for one in declared})),
        "snapshots": partial(_snapshots, repo, captured),
        "dropped": partial(_dropped, repo, views),
        "altered": partial(_altered, repo, views),
    }
    state = _at_once(parts, problems)
    tables: Dropped = state.pop("dropped")
    return {**state, "made_again": tables.made_again, "gone": tables.gone, "problems": list(dict.fromkeys(problems))}


def _at_once(parts: Mapping[str, Ask], problems: list[str]) -> dict[str, Any]:
    """The answers of all parts, and their problems in the order of the parts."""
    told: dict[str, list[str]] = {name: [] for name in parts}
    with ThreadPoolExecutor(len(parts)) as threads:
        asked = {name: threads.submit(ask, told[name]) for name, ask in parts.items()}
        answers = {name: answer.result() for name, answer in asked.items()}
    for name in parts:
        problems += told[name]
    return answers


def _connectors(repo: Repo, sources: Sequence[str], problems: list[str]) -> dict[str, str]:
    client = connect(repo, SECONDS)
    states = dict.fromkeys(sources, "unknown")
    for name in states:
        try:
            state = client.state(name)
        except ConnectUnavailable as error:
            problems.append(str(error))
            return states
        except ConnectRefused as error:
            problems.append(f"connector {name}: {error}")
            continue
        running = state is not None and state.running
        states[name] = "absent" if state is None else "RUNNING" if running else _not_running(state)
        if state is None:
            problems.append(f"connector {name} does not exist: run millrace apply")
        failures = [f"connector {name}: {failure.reason}" for failure in (state.failures if state else ())]
        if state is not None and not running and not failures:
            failures = [f"connector {name} is {state.state}, and its tasks do not run"]
        problems += failures
    return states


def _uncaptured(repo: Repo, views: Mapping[str, list[str]], problems: list[str]) -> list[str]:
    """The captured tables that their connectors leave out, as when an apply was cut off."""
    client, found = connect(repo, SECONDS), list[str]()
    try:
        told = (property_of(lake(repo), changes_table(topic), TABLE_PROPERTY) for topic in views)
        tables = [table for text in told if text is not None for table in loads(text)]
        for name in sorted({table.source for table in tables}):
            config = client.config(name)
            of_source = [table for table in tables if table.source == name]
            found += [table.topic for table in (not_included(config, of_source) if config is not None else ())]
    except (ConnectUnavailable, ConnectRefused, StoreUnavailable):
        return []  # told of among the connectors and the stores
    problems += [
        f"{topic}: connector {source_of(topic)} leaves it out, so that nothing of its changes comes to "
        f"{', '.join(views[topic])}: run millrace apply, and what that names"
        for topic in found
    ]
    return found


def _slots(repo: Repo, sources: Sequence[str], problems: list[str]) -> dict[str, Any]:
    slots = {}
    positions = _positions(repo, sources)
    for name in sources:
        database = source(repo, name)
        try:
            with database.opened(SECONDS, SECONDS) as engine:
                health = slot_health(engine, database)
        except SourceUnavailable as error:
            problems.append(str(error))
            continue
        if health is None:
            problems.append(no_slot(database))
            continue
        slots[name] = {
            "active": health.active,
            "behind_bytes": health.behind_bytes,
            "retained_bytes": health.retained_bytes,
            "safe_wal_size": health.safe_wal_size,
            "wal_status": health.wal_status,
        }
        problems += slot_problems(name, health)
        if name in positions and health.log_end is not None and positions[name] > health.log_end:
            problems.append(f"source {name}: {went_back(name, positions[name], health.log_end)}")
    return slots


def _positions(repo: Repo, sources: Sequence[str]) -> dict[str, int]:
    """The stored positions of those connectors that have one. They are taken before the log's end is looked at: from
    there a position can only lie behind."""
    client, positions = connect(repo, SECONDS), dict[str, int]()
    try:
        for name in sources:
            if (position := client.offset_lsn(name)) is not None:
                positions[name] = position
    except (ConnectUnavailable, ConnectRefused):
        pass  # told of among the connectors
    return positions


def _stores(repo: Repo, problems: list[str]) -> dict[str, str]:
    stores = {"online": online(repo, SECONDS), "vectors": vectors(repo, SECONDS), "lake": lake(repo)}
    return _at_once({name: partial(_ping, store.ping) for name, store in stores.items() if store is not None}, problems)


def _ping(ping: Callable[[], None], problems: list[str]) -> str:
    try:
        ping()
    except (StoreUnavailable, StoreRefused) as error:
        problems.append(str(error))
        return "does not answer"
    return "answers"


def _not_running(state: ConnectorState) -> str:
    """The state of a connector that does not run: of its tasks, if it only says so itself."""
    odd = [task.state for task in state.tasks if task.state != "RUNNING"]
    return state.state if state.state != "RUNNING" else odd[0] if odd else "without tasks"


def _workers(repo: Repo, problems: list[str]) -> dict[str, Any]:
    starting = _waited(repo)
    workers = running_workers(repo.workers_folder)
    problems += [
        f"worker {name} is starting, and did not get through within {START_SECONDS:g} s: does it wait for a store? Its "
        "log says"
        for name in starting
        if name not in workers
    ]
    for name, state in workers.items():
        if state["waiting_for"]:
            problems.append(f"worker {name} waits: {state['waiting_for']}")
        problems += state["paused"].values()
        problems += state["key_changes_lost"].values()
    if not workers and not starting and not _elsewhere(repo):
        problems.append("no worker runs, here or elsewhere: millrace run")
    return workers


def _waited(repo: Repo) -> list[str]:
    """The workers of this machine that are still starting after they were waited for: after `millrace apply` all start
    anew, which takes them a few seconds."""
    deadline = time.monotonic() + START_SECONDS
    while (starting := starting_workers(repo.workers_folder)) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    return starting


def _elsewhere(repo: Repo) -> bool:
    """Whether workers run on other machines, as far as Kafka tells."""
    try:
        return len(topics(repo).members(repo.group)) > 0
    except BrokerUnavailable:
        return False  # told of where the lag is asked for


def _declared(repo: Repo, problems: list[str]) -> list[Declared] | None:
    """The captured views; None where the registry does not tell them: what needs none of them is asked all the same."""
    try:
        check(repo.config)  # within seconds: a database that hangs would be waited for
        return repo.declared()
    except (RegistryUnreadable, DeclarationError, FunctionUnloadable) as error:
        problems.append(str(error))
        return None


def _views(repo: Repo, captured: Sequence[Declared], problems: list[str]) -> dict[str, list[str]]:
    """The views over each captured table whose source database is named. One that is not cannot be asked: the repo is
    not as it was applied."""
    views: dict[str, list[str]] = {}
    for declared in captured:
        views.setdefault(declared.topic, []).append(declared.view.name)
    for name in sorted({source_of(topic) for topic in views} - set(repo.settings.sources)):
        problems.append(no_source(repo, name))
    return {topic: names for topic, names in views.items() if source_of(topic) in repo.settings.sources}


def _snapshots(repo: Repo, captured: Sequence[str], problems: list[str]) -> dict[str, list[str]]:
    """The tables of each source that are being read anew. One that nobody is at any more was not reconciled."""
    begun: dict[str, list[str]] = {}
    try:
        for topic in captured:
            if unreconciled(lake(repo), topic) is not None:
                begun.setdefault(source_of(topic), []).append(topic)
        twice = _begun_anew(repo, captured)
    except StoreUnavailable:
        return {}  # told of above
    if twice:
        problems.append(
            f"the first snapshot of {', '.join(twice)} was cut off and begun anew: rows that were deleted between the "
            f"two may still be served. Run millrace resnapshot {' '.join(twice)}"
        )
    for name, tables in begun.items():
        database = source(repo, name)
        try:
            with database.opened(SECONDS, SECONDS) as engine:
                under_way = holder(engine, database, "snapshot") is not None
        except SourceUnavailable as error:
            problems.append(str(error))
            continue
        if not under_way:
            problems.append(
                f"a resnapshot or recover of {', '.join(tables)} was begun and never ended: rows that were deleted "
                f"meanwhile may still be served. Run millrace resnapshot {' '.join(tables)}, or if the connector does "
                f"not run millrace recover {name}"
            )
    return begun


def _begun_anew(repo: Repo, captured: Sequence[str]) -> list[str]:
    """The tables whose first snapshot was begun anew."""
    found: list[str] = []
    for name in sorted({source_of(topic) for topic in captured}):
        database, tables = source(repo, name), [topic for topic in captured if source_of(topic) == name]
        threads = "snapshot.max.threads" in database.overrides  # each of which has a transaction of its own
        for together in [[topic] for topic in tables] if threads else [tables]:
            found += begun_anew(lake(repo), together, database.partitions)
    return found


def _dropped(repo: Repo, views: Mapping[str, list[str]], problems: list[str]) -> Dropped:
    """Tables that were dropped since they were captured, not captured for a while, or only in part: no change tells of
    what became of their rows."""
    try:
        found = dropped(repo, sorted(views))
    except StoreUnavailable:
        return Dropped([], [], {}, [], [])  # told of above, and by the workers
    except SourceUnavailable as error:
        problems.append(str(error))
        return Dropped([], [], {}, [], [])
    problems += [
        f"{topic} was dropped and made again: run millrace apply, then millrace resnapshot {topic}; until then "
        f"{', '.join(views[topic])} serve its old rows, and new ones are not captured"
        for topic in found.made_again
    ]
    problems += [
        f"{topic} was dropped: {', '.join(views[topic])} go on serving its last rows. Make it again, then run millrace "
        f"apply and millrace resnapshot {topic}; or take the views out of the repo"
        for topic in found.gone
    ]
    problems += [
        f"{topic} lost partitions ({', '.join(names)}), and no change tells that their rows went with them: run "
        f"millrace resnapshot {topic}; until then {', '.join(views[topic])} serve them"
        for topic, names in found.partitions.items()
    ]
    problems += [
        f"{topic} was not captured for a while: run millrace resnapshot {topic}; until then "
        f"{', '.join(views[topic])} may serve rows that were changed or deleted meanwhile"
        for topic in found.captured_again
    ]
    problems += [
        f"{topic}: {_publication(repo, topic)} lacks it, or a part of its changes: run millrace apply, then millrace "
        f"resnapshot {topic}; until then {', '.join(views[topic])} may serve rows that were changed or deleted since"
        for topic in found.unpublished
    ]
    return found


def _altered(repo: Repo, views: Mapping[str, list[str]], problems: list[str]) -> dict[str, dict[str, Any]]:
    """Columns that were added or given another type since they were applied: no record tells of them."""
    try:
        found = altered_tables(repo, sorted(views), SECONDS)
    except (StoreUnavailable, SourceUnavailable):
        return {}  # told of above
    for topic, one in found.items():
        problems += [
            f"{topic}: column {name} was added and is not captured: run millrace apply, then millrace resnapshot "
            f"{topic} for the values that it has already"
            for name in one.added
        ]
        problems += [
            f"{topic}: column {name} was {old} when it was applied and is {new} now, and no change tells which values "
            f"that altered: run millrace apply, then millrace resnapshot {topic}; until then {', '.join(views[topic])} "
            "may serve the old ones"
            for name, (old, new) in one.retyped.items()
        ]
    return {topic: asdict(one) for topic, one in found.items()}


def _publication(repo: Repo, topic: str) -> str:
    return f"publication {source(repo, source_of(topic)).publication}"


def _lag(repo: Repo, tables: Sequence[str], problems: list[str]) -> dict[str, int]:
    try:
        offsets = topics(repo).committed(repo.group, tables)
    except BrokerUnavailable as error:
        problems.append(str(error))
        return {}
    lag: dict[str, int] = dict.fromkeys(tables, 0)
    for partition, (committed, end) in offsets.items():
        lag[partition.topic] += end - committed
    return lag
