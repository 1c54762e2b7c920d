"""Feast's `ServingService` of `millrace serve`, asked by grpc's own client over the published proto."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import feast
import grpc
import pytest
from feast.feature_server_utils import convert_response_to_dict
from feast.protos.feast.serving.ServingService_pb2 import GetFeastServingInfoRequest, GetOnlineFeaturesRequest
from feast.protos.feast.serving.ServingService_pb2_grpc import ServingServiceStub
from feast.protos.feast.types.Value_pb2 import RepeatedValue
from feast.type_map import python_values_to_proto_values

from millrace.repo import open_repo
from millrace.stack.ports import choose_ports
from millrace.wiring import access_keys
from serving.keys import make_key
from stores.access_keys import RedisKeys
from tests.certificates import Authority
from tests.integration.serving_repo import Server, millrace
from tests.integration.serving_types import TYPES

# Feast's conversion of a message has no maps with keys that are no texts.
TYPED = [f"types:{name}" for name in TYPES if name != "scalar_map"]

REQUESTS: dict[str, dict[str, Any]] = {
    "statuses": {"features": ["weather:temp", "airports:name"], "entities": {"origin": ["EWR", "JFK", "LGA", "XXX"]}},
    "full names": {"features": ["weather:sky"], "entities": {"origin": ["EWR"]}, "full_feature_names": True},
    "composite key": {"features": ["routes:delay"], "entities": {"origin": ["EWR", "JFK"], "flight": [1, 2]}},
    "no entities": {"features": ["totals:flights"], "entities": {"origin": ["EWR", "JFK"]}},
    "by the name of the entity": {"features": ["lines:planes"], "entities": {"line": ["UA", "XX"]}},
    "service": {"feature_service": "departure", "entities": {"origin": ["JFK"]}},
    "aliases": {
        "feature_service": "both_ends",
        "entities": {"from": ["EWR"], "to": ["JFK"]},
        "full_feature_names": True,
    },
    "on demand": {"feature_service": "felt", "entities": {"origin": ["EWR", "JFK"], "offset": [1.5, 2.0]}},
    "two features of a name, one asked for": {
        "features": ["weather:temp", "cabin_rows:rows"],
        "entities": {"origin": ["EWR", "JFK"], "flight": [1, 2]},
    },
    "versions": {
        "features": ["weather:temp"],
        "entities": {"origin": ["EWR"]},
        "include_feature_view_version_metadata": True,
    },
    "every type": {"features": TYPED, "entities": {"item": [1, 2, 3, 4]}},
    "a timestamp key": {"features": ["moments:count"], "entities": {"seen": [86_400], "item": [1]}},
    "many": {"features": ["weather:temp", "weather:sky"], "entities": {"origin": ["EWR", "JFK"] * 200}},
}


def message(
    entities: dict[str, list[Any]], features: list[str] | None = None, **fields: Any
) -> GetOnlineFeaturesRequest:
    columns = {name: RepeatedValue(val=python_values_to_proto_values(values)) for name, values in entities.items()}
    request = GetOnlineFeaturesRequest(entities=columns, **fields)
    if features is not None:
        request.features.val.extend(features)
    return request


@pytest.fixture(scope="module")
def grpc_port() -> int:
    return choose_ports(("grpc",), {})["grpc"]


@pytest.fixture(scope="module")
def server(repo: Path, grpc_port: int) -> Iterator[Server]:
    with millrace(repo, "--grpc-port", str(grpc_port)) as running:
        yield running


@pytest.fixture(scope="module")
def stub(server: Server, grpc_port: int) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        yield ServingServiceStub(channel)


def test_it_says_which_feast_it_speaks_for(stub: Any) -> None:
    assert stub.GetFeastServingInfo(GetFeastServingInfoRequest()).version == feast.__version__


@pytest.mark.parametrize("name", list(REQUESTS))
def test_the_message_says_what_http_says(server: Server, stub: Any, name: str) -> None:
    """By Feast's own conversion of the message into JSON."""
    status, expected = server.features(**REQUESTS[name])
    assert status == 200
    answer = convert_response_to_dict(stub.GetOnlineFeatures(message(**REQUESTS[name]), timeout=30))
    assert by_name(answer) == by_name(expected)
    assert answer["metadata"].get("feature_view_metadata") == expected["metadata"].get("feature_view_metadata")


def by_name(answer: dict[str, Any]) -> dict[str, Any]:
    """The columns of an answer: a map of messages has no order, so that join keys come in another one than in JSON."""
    return dict(zip(answer["metadata"]["feature_names"], answer["results"], strict=True))


def test_the_context_joins_the_entities(stub: Any) -> None:
    request = message(**REQUESTS["on demand"])
    other = message({"origin": ["EWR", "JFK"]}, feature_service="felt")
    other.request_context["offset"].CopyFrom(request.entities["offset"])
    first, second = (stub.GetOnlineFeatures(asked, timeout=30) for asked in (request, other))
    names = list(first.metadata.feature_names.val)
    assert list(second.metadata.feature_names.val) == names
    assert list(second.results)[-1] == list(first.results)[-1]


def refused(call: Callable[[], Any]) -> tuple[Any, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error: Any = raised.value
    return error.code(), error.details()


@pytest.mark.parametrize(
    ("request_", "code", "said"),
    [
        ({"features": ["weather:tmp"], "entities": {"origin": ["EWR"]}}, grpc.StatusCode.NOT_FOUND, "tmp"),
        ({"feature_service": "nothing", "entities": {"origin": ["EWR"]}}, grpc.StatusCode.NOT_FOUND, "nothing"),
        ({"features": ["weather:temp"], "entities": {"flight": [1]}}, grpc.StatusCode.INVALID_ARGUMENT, "origin"),
        ({"features": ["weather:temp"], "entities": {"origin": [7]}}, grpc.StatusCode.INVALID_ARGUMENT, "STRING"),
        ({"features": ["weather:temp"], "entities": {}}, grpc.StatusCode.INVALID_ARGUMENT, "no entity"),
        ({"entities": {"origin": ["EWR"]}}, grpc.StatusCode.INVALID_ARGUMENT, "name features"),
    ],
)
def test_mistakes_have_codes_and_words(stub: Any, request_: dict[str, Any], code: Any, said: str) -> None:
    found, details = refused(lambda: stub.GetOnlineFeatures(message(**request_), timeout=30))
    assert found == code and said in details


def add(keys: RedisKeys, name: str, **options: Any) -> str:
    made = make_key(name, **options)
    assert keys.add(made.stored)
    return made.text


def test_keys_limits_certificates_and_the_audit_log(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One server with all of it, over TLS that asks its clients for a certificate."""
    keys = access_keys(open_repo(repo, repo / "no-stack"))
    plain = add(keys, "plain")
    scoped = add(keys, "scoped", services=("departure",), personal=True)
    slow = add(keys, "slow", entities_per_second=2)
    authority = Authority(tmp_path)
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    authority.sign("server", cert, key)
    authority.sign("client", tmp_path / "client.crt", tmp_path / "client.key")
    port = choose_ports(("grpc",), {})["grpc"]
    for name, file in (("CERT", cert), ("KEY", key), ("CLIENT_CA", authority.certificate)):
        monkeypatch.setenv(f"MILLRACE__SERVE__TLS_{name}", str(file))
    weather, departure = REQUESTS["full names"], REQUESTS["service"]
    personal = {"features": ["airports:name"], "entities": {"origin": ["EWR"]}}
    server = Server(
        [sys.executable, "-m", "millrace.cli", "serve", "--repo", str(repo), "--stack", str(repo / "no-stack")]
        + ["--port", "PORT", "--workers", "1", "--with-keys", "--grpc-port", str(port)],
        repo,
    )
    server.start_without_asking()
    try:
        trusted = grpc.ssl_channel_credentials(
            authority.certificate.read_bytes(),
            (tmp_path / "client.key").read_bytes(),
            (tmp_path / "client.crt").read_bytes(),
        )
        with grpc.secure_channel(f"localhost:{port}", trusted) as channel:
            grpc.channel_ready_future(channel).result(60)
            stub = ServingServiceStub(channel)

            def ask(request: dict[str, Any], key: str | None) -> Any:
                metadata = [("authorization", f"Bearer {key}")] if key else []
                return stub.GetOnlineFeatures(message(**request), timeout=30, metadata=metadata)

            assert ask(weather, plain).metadata.feature_names.val == ["origin", "weather__sky"]
            assert "Kennedy" in str(ask(departure, scoped))
            assert refused(lambda: ask(weather, None))[0] == grpc.StatusCode.UNAUTHENTICATED
            assert refused(lambda: ask(weather, "mr_nothing"))[0] == grpc.StatusCode.UNAUTHENTICATED
            code, said = refused(lambda: ask(weather, scoped))
            assert code == grpc.StatusCode.PERMISSION_DENIED and "departure" in said
            code, said = refused(lambda: ask(personal, plain))
            assert code == grpc.StatusCode.PERMISSION_DENIED and "airports:name" in said
            code, _ = refused(lambda: ask({**personal, "features": ["airports@latest:name"]}, plain))
            assert code == grpc.StatusCode.PERMISSION_DENIED
            code, said = refused(lambda: [ask(weather, slow) for _ in range(50)])
            assert code == grpc.StatusCode.RESOURCE_EXHAUSTED and "2 entities a second" in said
            assert keys.remove("plain")
            code, _ = refused(lambda: [ask(weather, plain) for _ in range(100_000)])
            assert code == grpc.StatusCode.UNAUTHENTICATED
        unknown = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
        with grpc.secure_channel(f"localhost:{port}", unknown) as channel:
            code, _ = refused(
                lambda: ServingServiceStub(channel).GetFeastServingInfo(GetFeastServingInfoRequest(), timeout=10)
            )
            assert code == grpc.StatusCode.UNAVAILABLE
    finally:
        server.stop()
    log = server.output.read_text()
    assert "event=request msg=answered key=scoped service=departure entities=1 status=OK protocol=grpc" in log
    assert "key=plain views=airports entities=1 status=PERMISSION_DENIED protocol=grpc" in log
    assert "Kennedy" not in log and "EWR" not in log and plain not in log and scoped not in log
