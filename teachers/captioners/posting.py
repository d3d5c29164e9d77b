"""One JSON request to a server, sent again while there is hope.

Waits double and are jittered, so that many threads do not come back together; a server's
`Retry-After` is honoured, by all threads. Redirections are not followed: they would carry the key
to another host. The key is in one header and in no message.
"""

import contextlib
import email.utils
import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from teachers.captioners.retries import Retries

_PASSING = frozenset((408, 425, 429, 500, 502, 503, 504, 529))
_MAX_BYTES = 1 << 24
_SHOWN = 300
Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a server is waited for; seconds.

    Attributes:
        attempts: how often a request is sent at most.
        first_wait: before the second attempt; doubles from there, up to `longest_wait`.
        longest_wait: also the longest `Retry-After` that is waited for.
        timeout: of connecting, and of silence within an answer.
    """

    attempts: int = 7
    first_wait: float = 1.0
    longest_wait: float = 120.0
    timeout: float = 120.0

    def __post_init__(self) -> None:
        """Refuse what would never ask, or never stop."""
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts}")
        for name in ("first_wait", "longest_wait", "timeout"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive number of seconds, got {value}")

    def wait(self, attempt: int) -> float:
        """Return the seconds to wait after attempt number `attempt` (from 1), jittered."""
        doubled = self.first_wait * 2.0 ** min(attempt - 1, 60)
        return min(self.longest_wait, doubled) * random.uniform(0.5, 1.0)


class Stopped(Exception):  # noqa: N818 - nothing went wrong here
    """Another request failed for good, or the user interrupted: this one is given up."""


class Halt(threading.Event):
    """Ends all requests of a round; `cause` is the failure that did, or None."""

    def __init__(self) -> None:
        """Let them go on."""
        super().__init__()
        self.cause: Exception | None = None

    def because(self, error: Exception) -> None:
        """End the round; the first cause stays."""
        if not isinstance(error, Stopped):
            self.cause = self.cause or error
        self.set()


class _Passing(Exception):  # noqa: N818
    """What may be gone with the next attempt.

    `kind` is the reason without what differs from one time to the next; `after` is the server's
    wish in seconds.
    """

    def __init__(self, kind: str, detail: str = "", after: float = 0.0) -> None:
        super().__init__(kind + detail)
        self.kind, self.after = kind, after


class _NoRedirection(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class Poster:
    """Posts JSON to one address; any number of threads may use it.

    Args:
        url: where to.
        key: sent as a bearer token; empty for none.
        patience: with failures.
        retries: told of each request that is sent again.
    """

    def __init__(
        self, url: str, *, key: str = "", patience: Patience, retries: Retries | None = None
    ) -> None:
        """Open nothing yet."""
        self.url, self.patience, self._key = url, patience, key
        self._retries = Retries() if retries is None else retries
        self._opener = build_opener(_NoRedirection)
        self._quiet_until = 0.0  # a time.monotonic(); all threads keep to it

    def post(self, body: dict[str, Any], read: Callable[[Any], Answer], stop: Halt) -> Answer:
        """Send `body` until `read` accepts the answer.

        Args:
            body: JSON values.
            read: makes something of the decoded answer; a `ValueError` of it counts as a failure
                of the server.
            stop: ends all waiting.

        Raises:
            ValueError: the server refuses the request itself; says what it said.
            ConnectionError: still no answer after all attempts.
            Stopped: `stop` was set.
        """
        sent = json.dumps(body).encode()
        began, attempt = time.monotonic(), 0
        while True:
            self._wait(self._quiet_until - time.monotonic(), stop)
            attempt += 1
            try:
                return self._once(sent, read)
            except _Passing as failure:
                hopeless = failure.after > self.patience.longest_wait
                if attempt == self.patience.attempts or hopeless:
                    raise ConnectionError(
                        f"{self.url}: no answer after {attempt} attempts in "
                        f"{time.monotonic() - began:.0f} s; the last: {failure}. What is written "
                        "is whole: give the same command again when the server is well"
                    ) from failure
                self._retries.note(self.url, failure.kind)
                self._quiet_until = max(self._quiet_until, time.monotonic() + failure.after)
            self._wait(self.patience.wait(attempt), stop)

    def _once(self, sent: bytes, read: Callable[[Any], Answer]) -> Answer:
        headers = {"Content-Type": "application/json", "User-Agent": "clip-distill"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = Request(self.url, data=sent, headers=headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.patience.timeout) as answer:
                text = answer.read(_MAX_BYTES)
        except HTTPError as error:
            raise self._refusal(error) from error
        except TimeoutError as error:
            raise _Passing(f"silence for {self.patience.timeout:g} s") from error
        except (URLError, OSError, HTTPException) as error:
            raise _Passing(type(error).__name__, self._shown(f": {error}")) from error
        try:
            return read(json.loads(text))
        except (ValueError, RecursionError) as error:
            said = self._shown(text.decode(errors="replace"))
            raise _Passing(
                "an answer that is no chat completion", f" ({error}): {said!r}"
            ) from error

    def _refusal(self, error: HTTPError) -> Exception:
        said = ""
        with error, contextlib.suppress(OSError, HTTPException):  # it may break off in its answer
            said = self._shown(error.read(_MAX_BYTES).decode(errors="replace"))
        kind = f"HTTP {error.code} {error.reason}"
        if error.code in _PASSING:
            return _Passing(kind, f": {said!r}", _seconds(error.headers.get("Retry-After", "")))
        if 300 <= error.code < 400:
            target = self._shown(error.headers.get("Location", "nowhere"))
            return ValueError(f"{self.url} redirects to {target}: give that address instead")
        return ValueError(f"{self.url} refuses the request: {kind}: {said!r}")

    def _shown(self, text: str) -> str:
        text = text.replace(self._key, "***") if self._key else text
        return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."

    @staticmethod
    def _wait(seconds: float, stop: Halt) -> None:
        if stop.wait(max(0.0, seconds)):
            raise Stopped


def _seconds(retry_after: str) -> float:
    """Read a `Retry-After` header, seconds or a date; 0 where it says nothing."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        when = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
