"""A journal in Redis or Valkey, for servers on any host. Each operation is one script, so it happens as a whole.

Of each log there are four keys, all with the conversation's key in braces, so that a cluster keeps them together:

    dia2stream:{KEY}:log      the record
    dia2stream:{KEY}:owner    the owner's fencing number; expires with the lease, by the store's clock
    dia2stream:{KEY}:fence    the last fencing number that was given: the store's time, so that it only ever rises
    dia2stream:{KEY}:want     another server asks for the log
"""

from collections.abc import Callable
from typing import Any, TypeVar

import redis

from dia2stream.errors import JournalError
from dia2stream.journal.store import LEASE_SECONDS, TIMEOUT_SECONDS, Fenced, Lease, LogLost, Renewal, Unreachable

_T = TypeVar("_T")
_NAMES = ("log", "owner", "fence", "want")
_LEASE_MS = round(LEASE_SECONDS * 1000)

# KEYS: log, owner, fence, want. ARGV: milliseconds that the log outlives its lease, and what each script says.
_ACQUIRE = """
if redis.call('exists', KEYS[2]) == 1 then return false end
if ARGV[2] == '0' and redis.call('exists', KEYS[1]) == 0 then return false end
local now = redis.call('time')
local fence = math.max(tonumber(redis.call('get', KEYS[3]) or 0) + 1, now[1] * 1000000 + now[2])
fence = string.format('%.0f', fence)
redis.call('set', KEYS[3], fence, 'px', ARGV[1])
redis.call('set', KEYS[2], fence, 'px', ARGV[3])
redis.call('del', KEYS[4])
redis.call('pexpire', KEYS[1], ARGV[1])
return {fence, redis.call('strlen', KEYS[1])}
"""
_MINE = "if redis.call('get', KEYS[3]) ~= ARGV[2] then return -1 end\n"
_RENEW = (
    _MINE
    + """
redis.call('set', KEYS[2], ARGV[2], 'px', ARGV[3])
redis.call('pexpire', KEYS[1], ARGV[1])
redis.call('pexpire', KEYS[3], ARGV[1])
return redis.call('exists', KEYS[4])
"""
)
_APPEND = (
    _MINE
    + """
local size, at = redis.call('strlen', KEYS[1]), tonumber(ARGV[3])
if size < at then return -2 end
if at == 0 then redis.call('set', KEYS[1], ARGV[4])
elseif size == at then redis.call('append', KEYS[1], ARGV[4])
else redis.call('set', KEYS[1], redis.call('getrange', KEYS[1], 0, at - 1) .. ARGV[4]) end
redis.call('set', KEYS[2], ARGV[2], 'px', ARGV[5])
redis.call('pexpire', KEYS[1], ARGV[1])
redis.call('pexpire', KEYS[3], ARGV[1])
return redis.call('exists', KEYS[4])
"""
)
_READ = _MINE + "return redis.call('get', KEYS[1])\n"
_RELEASE = _MINE + "redis.call('del', KEYS[2])\nredis.call('pexpire', KEYS[1], ARGV[1])\nreturn 1\n"
_DELETE = _MINE + "redis.call('del', KEYS[1], KEYS[2], KEYS[4])\nreturn 1\n"


class RedisStore:
    """A Redis. linger: seconds after which a log without an owner expires."""

    leases_expire = True

    def __init__(self, url: str, linger: float) -> None:
        try:
            # No retries: the journal's thread tries again by itself, and tells meanwhile that it is behind.
            self._redis = redis.Redis.from_url(
                url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS, retry=None
            )
        except ValueError as error:
            raise JournalError(f"--journal: {error}") from None
        self._kept_ms = round((linger + LEASE_SECONDS) * 1000)
        register = self._redis.register_script
        self._acquire, self._renew, self._append = register(_ACQUIRE), register(_RENEW), register(_APPEND)
        self._read, self._release, self._delete = register(_READ), register(_RELEASE), register(_DELETE)

    def acquire(self, key: str, new: bool = False) -> Lease | None:
        """See Store."""
        found = self._run(self._acquire, key, int(new), _LEASE_MS)
        return Lease(key, int(found[0]), found[1]) if found else None

    def has(self, key: str) -> bool:
        """See Store."""
        return bool(self._ask(lambda: self._redis.exists(_keys(key)[0])))

    def want(self, key: str) -> None:
        """See Store."""
        self._ask(lambda: self._redis.set(_keys(key)[3], 1, px=2 * _LEASE_MS))

    def renew(self, lease: Lease) -> Renewal:
        """See Store."""
        answer = self._run(self._renew, lease.key, lease.fence, _LEASE_MS)
        return {-1: Renewal.LOST, 1: Renewal.WANTED}.get(answer, Renewal.HELD)

    def append(self, lease: Lease, at: int, data: bytes) -> bool:
        """See Store."""
        answer = self._owned(self._run(self._append, lease.key, lease.fence, at, data, _LEASE_MS))
        if answer == -2:
            raise LogLost(f"fewer than the {at} bytes that were written are left")
        return bool(answer)

    def read(self, lease: Lease) -> bytes:
        """See Store."""
        return self._owned(self._run(self._read, lease.key, lease.fence)) or b""

    def peek(self, key: str) -> bytes:
        """See Store."""
        log: Any = self._ask(lambda: self._redis.get(_keys(key)[0]))
        return bytes(log or b"")

    def release(self, lease: Lease) -> None:
        """See Store."""
        self._run(self._release, lease.key, lease.fence)

    def delete(self, lease: Lease) -> None:
        """See Store."""
        self._run(self._delete, lease.key, lease.fence)

    def sweep(self) -> None:
        """Keys expire by themselves."""

    def close(self) -> None:
        """Closes the connections."""
        self._redis.close()

    def _run(self, script: Any, key: str, *arguments: Any) -> Any:
        return self._ask(lambda: script(keys=_keys(key), args=[self._kept_ms, *arguments]))

    def _ask(self, question: Callable[[], _T]) -> _T:
        try:
            return question()
        except redis.RedisError as error:
            raise Unreachable(0, str(error) or type(error).__name__) from None

    def _owned(self, answer: Any) -> Any:
        if answer == -1:
            raise Fenced
        return answer


def _keys(key: str) -> list[str]:
    return [f"dia2stream:{{{key}}}:{name}" for name in _NAMES]
