"""Latency at a fixed rate, by vegeta (https://github.com/tsenart/vegeta), which must be installed: requests go out at
times set ahead, whether or not earlier ones are answered. So a server that stalls is not spared the requests that would
have come meanwhile (coordinated omission); wrk, which waits for answers, would spare it."""

import base64
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace

NANOSECONDS_IN_MS = 1e6


@dataclass(frozen=True, slots=True)
class Latencies:
    """In milliseconds; `rate` is requests a second; `failed` are those without an answer of 200."""

    p50: float
    p99: float
    rate: float
    failed: int


def measure(
    port: int, bodies: Sequence[bytes], rate: float, seconds: float, path: str = "/get-online-features"
) -> Latencies:
    """Posts the bodies in turn to the path, `rate` a second; connections are opened as they are needed and kept."""
    url = f"http://127.0.0.1:{port}{path}"
    header = {"Content-Type": ["application/json"]}
    targets = [
        {"method": "POST", "url": url, "header": header, "body": base64.b64encode(body).decode()} for body in bodies
    ]
    sent = subprocess.run(
        ["vegeta", "attack", "-format=json", "-max-body=0", f"-rate={round(rate)}", f"-duration={seconds:g}s"],
        input="\n".join(json.dumps(target) for target in targets).encode(),
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    told = subprocess.run(["vegeta", "report", "-type=json"], input=sent, check=True, stdout=subprocess.PIPE).stdout
    report = json.loads(told)
    latencies, answered = report["latencies"], report["status_codes"].get("200", 0)
    return Latencies(
        latencies["50th"] / NANOSECONDS_IN_MS,
        latencies["99th"] / NANOSECONDS_IN_MS,
        report["rate"],
        report["requests"] - answered,
    )


def middle(found: Sequence[Latencies]) -> Latencies:
    """Of several measurements that with the median p99; the failed of all."""
    ordered = sorted(found, key=lambda one: one.p99)
    return replace(ordered[len(ordered) // 2], failed=sum(one.failed for one in found))
