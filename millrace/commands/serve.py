"""Serving features and searches over HTTP."""

import logging
from typing import TYPE_CHECKING

import click

from millrace.cli import Failed, Out, Places, shared

if TYPE_CHECKING:
    from millrace.repo import Repo

log = logging.getLogger("millrace")


@click.command
@click.option("--host", help="Where to listen.  [default: serve.host of millrace.yaml, 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65_535), help="[default: serve.port, 6566]")
@click.option("--grpc-port", type=click.IntRange(1, 65_535), help="Also gRPC.  [default: serve.grpc_port, none]")
@click.option("--workers", type=click.IntRange(1), help="Processes on the port.  [default: serve.workers, one a core]")
@click.option("--without-keys", is_flag=True, help="Let everybody in, also from other machines.")
@click.option("--with-keys", is_flag=True, help="Ask for API keys on loopback too.")
@shared
def serve(
    places: Places,
    out: Out,
    host: str | None,
    port: int | None,
    grpc_port: int | None,
    workers: int | None,
    without_keys: bool,
    with_keys: bool,
) -> None:
    """Serve features and searches over HTTP, in Feast's own form, until SIGTERM or Ctrl-C.

    A stock Feast SDK reads through it with `online_store: {type: remote, path: http://HOST:PORT}`. On SIGTERM it
    stops listening and answers what it has begun. What `feast apply` changes is served a few seconds later.

    \b
    millrace serve
    curl localhost:6566/get-online-features -d '{"features": ["airport_facts:name"], "entities": {"faa": ["JFK"]}}'
    open http://localhost:6566/docs http://localhost:6566/console

    With --grpc-port it answers Feast's ServingService too, on the same host and with the same keys and certificate.

    Off loopback every request needs an API key (millrace keys add NAME), unless --without-keys says that another
    gate stands before the server. Limits and time-outs stand under `serve:` in millrace.yaml; docs/serving.md has
    them all.
    """
    from dataclasses import replace
    from functools import partial

    from millrace.console import RepoPlatform
    from millrace.repo import open_repo
    from millrace.wiring import LOOPBACK, http_application, listening, reads
    from serving.applied import check
    from serving.console.sessions import Sessions
    from serving.counts import Counts
    from serving.server import address_of
    from serving.server import serve as serve_forever

    repo = open_repo(places.repo, places.stack)
    settings = listening(repo)
    place = replace(
        settings,
        host=settings.host if host is None else host,
        port=settings.port if port is None else port,
        workers=workers or settings.workers,
        grpc_port=settings.grpc_port if grpc_port is None else grpc_port,
    )
    loopback = place.host in LOOPBACK
    keys = with_keys or not (loopback or without_keys)
    if with_keys and without_keys:
        raise click.UsageError("--with-keys and --without-keys exclude each other")
    if keys and not _has_keys(repo):
        raise Failed(
            f"{place.host} is reached from other machines, and project {repo.project} has no API key: make one with "
            "millrace keys add NAME, or say --without-keys if another gate stands before this server"
            if not loopback
            else f"project {repo.project} has no API key: make one with millrace keys add NAME"
        )
    reads(repo)  # made in each process; what it says of the settings is to be heard before
    readable = partial(check, repo.config)
    readable()
    for taken in filter(None, (place.grpc_port, place.port)):
        place = replace(place, host=address_of(place.host, taken))
    log.info(
        "serves %s on %s://%s:%s, %s",
        repo.project,
        "http" if place.tls is None else "https",
        place.host,
        place.port,
        "to who has a key" if keys else "to everybody",
        extra={"event": "serves", "workers": place.workers, "grpc_port": place.grpc_port or "none"},
    )
    counts, sessions = Counts(2 * place.workers), Sessions()
    build = partial(http_application, repo, place, counts, keys, sessions, RepoPlatform(repo))
    serve_forever(place, build, readable)
    log.info("stopped", extra={"event": "stopped"})


def _has_keys(repo: "Repo") -> bool:
    """Whether the project has an API key. While its store does not say, the server starts all the same: its processes
    let nobody in until they have read the keys, and are there once the store is."""
    from millrace.wiring import access_keys
    from stores.errors import StoreUnavailable

    try:
        return bool(access_keys(repo, repo.settings.serve.store_seconds).read().keys)
    except StoreUnavailable as error:
        log.warning("nobody is let in until the API keys can be read: %s", error, extra={"event": "keys_unread"})
        return True
