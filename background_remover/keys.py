"""Who may use the paths for programs, and how often: RMBG_API_KEYS and RMBG_RATE_LIMIT."""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import time

import limits

NO_KEY = "This needs a key: send it as 'Authorization: Bearer KEY' or as 'X-Api-Key: KEY'."
WRONG_KEY = "This key is not known here: check it, or ask whoever runs this server for one."
TOO_OFTEN = "These are more requests than may be sent in that time: try again in {0} seconds."


class Keys:
    """The keys that are known, none if nobody needs one, and the rate for each of them, or each address.

    `rate` is as the package `limits` reads it, "60/minute" for example. Raises ValueError, one sentence, for another.
    """

    def __init__(self, keys: list[str], rate: str | None = None) -> None:
        self._digests = [_digest(key) for key in keys]
        try:
            self.rate = limits.parse(rate) if rate else None
        except ValueError:
            raise ValueError("RMBG_RATE_LIMIT is no rate: set it to one such as '60/minute'.") from None
        self._limiter = limits.strategies.FixedWindowRateLimiter(limits.storage.MemoryStorage())

    @classmethod
    def from_environment(cls) -> Keys:
        """As the environment has them. Raises ValueError."""
        keys = [key.strip() for key in os.environ.get("RMBG_API_KEYS", "").split(",")]
        return cls([key for key in keys if key], os.environ.get("RMBG_RATE_LIMIT"))

    @property
    def needed(self) -> bool:
        """Whether one is."""
        return bool(self._digests)

    def owner(self, key: str) -> str | None:
        """A name for a key that is known, which tells nothing of it; the time that it takes tells nothing either."""
        digest = _digest(key)
        found = [hmac.compare_digest(digest, known) for known in self._digests]
        return f"key {found.index(True) + 1}" if any(found) else None

    def left(self, who: str) -> Left | None:
        """How many requests somebody has left after this one; None where there is no rate."""
        if self.rate is None:
            return None
        within = self._limiter.hit(self.rate, who)
        stats = self._limiter.get_window_stats(self.rate, who)
        return Left(within, self.rate.amount, stats.remaining, max(1, math.ceil(stats.reset_time - time.time())))


class Left:
    """What somebody has left of a rate: whether this request is within it, of how many, how many more, until when."""

    def __init__(self, within: bool, amount: int, remaining: int, seconds: int) -> None:
        self.within = within
        self.seconds = seconds
        self.headers = {
            "X-RateLimit-Limit": str(amount),
            "X-RateLimit-Remaining": str(remaining),
            "X-RateLimit-Reset": str(math.ceil(time.time()) + seconds),
        }


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
