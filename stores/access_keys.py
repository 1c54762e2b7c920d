"""API keys beside the features in Redis, and what each has spent of its limits.

`millrace:keys:<project>` is a hash: a field a key, by its name, with JSON. A key's secret is not in it, only its
SHA-256: the secret is 256 random bits, so that there is no dictionary to try, and what slow hashes protect against
(guessing a weak password) cannot be done; a slow hash would cost each request milliseconds.

`millrace:limits:<project>` is a hash of token buckets: a field a key and kind, with its balance and when (Redis's
clock, seconds) it was that. A bucket holds what is allowed in one second, and may be overdrawn: whoever spends
reports afterwards, and what was too much is paid back by the seconds that follow.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter

from stores.errors import StoreRefused
from stores.online import RedisOnline
from stores.operations import command

KEEP_SECONDS = 3_600
"""A bucket that nobody has asked for so long is full."""

_SPEND = """
local time = redis.call('TIME')
local now, balances = time[1] + time[2] / 1000000, {}
for i = 1, #ARGV, 3 do
  local rate, spent = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local full = math.max(rate, 1)
  local balance, stored = full, redis.call('HGET', KEYS[1], ARGV[i])
  if stored then
    local held, at = string.match(stored, '^(%S+) (%S+)$')
    balance = math.min(full, tonumber(held) + math.max(now - tonumber(at), 0) * rate)
  end
  balances[#balances + 1] = string.format('%.17g', balance - spent)
  redis.call('HSET', KEYS[1], ARGV[i], string.format('%.17g %.6f', balance - spent, now))
end
redis.call('EXPIRE', KEYS[1], KEEP)
return balances
""".replace("KEEP", str(KEEP_SECONDS))


@dataclass(frozen=True, slots=True)
class AccessKey:
    """What is stored of an API key.

    `id` stands in the key itself and finds it, `sha256` (hex) is that of the whole key. No `services` means all
    features. A limit of 0 is none. `made` is in seconds since 1970. `replay`: it may send dead letters again.
    """

    # A field that is not known here may be a bound that a later version sets: such a key is not read as one without.
    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    services: tuple[str, ...] = ()
    personal: bool = False
    requests_per_second: Annotated[float, Field(ge=0)] = 0.0
    entities_per_second: Annotated[float, Field(ge=0)] = 0.0
    made: float = 0.0
    replay: bool = False


_KEY = TypeAdapter(AccessKey)


@dataclass(frozen=True, slots=True)
class StoredKeys:
    """The keys that can be read, by name, and of those that cannot what to do, by their names."""

    keys: Sequence[AccessKey]
    unreadable: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Spent:
    """What was taken from the bucket of a key since the last report; `bucket` is `<key id>:<kind>`."""

    bucket: str
    per_second: float
    amount: float


class RedisKeys:
    """The keys of one project. Every method raises `StoreUnavailable` and `StoreRefused`."""

    def __init__(self, redis: RedisOnline, project: str) -> None:
        self._redis = redis
        self._keys = f"millrace:keys:{project}".encode()
        self._limits = f"millrace:limits:{project}".encode()

    def add(self, key: AccessKey) -> bool:
        """Store a new key; False if there is one of that name."""
        fields = {name: value for name, value in asdict(key).items() if name != "name"}
        (added,) = self._redis.ask([command(b"HSETNX", self._keys, key.name.encode(), json.dumps(fields).encode())])
        return bool(added)

    def remove(self, name: str) -> bool:
        """Remove a key; False if there is none of that name."""
        (removed,) = self._redis.ask([command(b"HDEL", self._keys, name.encode())])
        return bool(removed)

    def read(self) -> StoredKeys:
        """Every key."""
        (flat,) = self._redis.ask([command(b"HGETALL", self._keys)])
        keys, unreadable = [], {}
        for field, text in zip(flat[::2], flat[1::2], strict=True):
            name = field.decode(errors="backslashreplace")
            try:
                fields = json.loads(text)
                # Without its services a key would reach them all.
                keys.append(_KEY.validate_python({**fields, "services": fields["services"], "name": name}))
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                unreadable[name] = (
                    f"API key {name!r} in Redis hash {self._keys.decode()} cannot be read ({type(error).__name__}): "
                    f"millrace keys revoke {name}, and make it anew"
                )
        return StoredKeys(sorted(keys, key=lambda key: key.name), unreadable)

    def all(self) -> Sequence[AccessKey]:
        """Every key, by name. Raises `StoreRefused` too where one cannot be read."""
        stored = self.read()
        for why in stored.unreadable.values():
            raise StoreRefused(why)
        return stored.keys

    def spend(self, spent: Sequence[Spent]) -> list[float]:
        """Take the amounts from their buckets, and the balance of each afterwards, below 0 where it is overdrawn."""
        # To the last digit: a bucket that is full here has to be as full as the processes know it.
        arguments = [text.encode() for one in spent for text in (one.bucket, repr(one.per_second), repr(one.amount))]
        (balances,) = self._redis.ask([command(b"EVAL", _SPEND.encode(), b"1", self._limits, *arguments)])
        return [float(balance) for balance in balances]
