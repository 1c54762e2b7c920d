"""A typed client of `millrace serve`, and of any server that speaks Feast's HTTP form; imports neither Feast nor the
platform.

    with Client("http://localhost:6566", key="mr_...") as client:
        found = client.get_online_features(feature_service="delay_model", entities={"faa": ["JFK"]})
    found.to_dict(), found.statuses["temp"], found.to_pandas()
"""

from millrace.client.answer import OnlineFeatures, Status
from millrace.client.connection import AsyncClient, Client, Tls
from millrace.client.errors import (
    ClientError,
    Forbidden,
    InvalidAnswer,
    InvalidRequest,
    ServerFailed,
    TimedOut,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unreachable,
)

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "Forbidden",
    "InvalidAnswer",
    "InvalidRequest",
    "OnlineFeatures",
    "ServerFailed",
    "Status",
    "TimedOut",
    "Tls",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
]
