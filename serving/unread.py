"""Large answers on their way: what a client has not taken yet is held here, however slowly it reads."""

from typing import Any

from serving.gate import Overloaded
from serving.refusals import Answer, refusal
from serving.scales import Scales

PIECE = 64 << 10
"""Bytes of an answer that the connection takes at once. It takes more as the client takes what it has, and lets go of
an answer with its last piece; a whole one it takes at once, and nobody learns when that is sent."""


async def with_room(answers: Scales, answer: Answer) -> tuple[Answer, int]:
    """The answer and what it has entered with, 0 for a small one; or one that says that there is no room for it."""
    weight = answers.weight(len(answer.body))
    if weight:
        try:
            await answers.enter(weight)
        except Overloaded as error:
            return refusal(error), 0
    return answer, weight


async def sent(protocol: Any, answer: Answer) -> None:
    """Send an answer by granian's RSGI; returns once its client has taken it, but for a few pieces, or is gone."""
    body = answer.body
    pieces = protocol.response_stream(answer.status, [*answer.headers, ("content-length", str(len(body)))])
    try:
        for start in range(0, len(body), PIECE):
            await pieces.send_bytes(body[start : start + PIECE])
    except Exception:  # noqa: BLE001  # granian has no name for a client that is gone
        return
    del pieces, answer, body  # the connection has the pieces, and would wait for more
    await protocol.client_disconnect()  # granian's word for: the connection has let go of the answer
