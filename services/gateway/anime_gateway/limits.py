"""How often somebody may do something: token buckets, a bounded number of them. Pure: time is an argument."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass

MOST_BUCKETS = 10_000


def neighbourhood(address: str) -> str:
    """Whose limits count for an address: its own; of IPv6, its /64, since whoever has one address has all of these."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float


class RateLimit:
    """`burst` at once, `rate` a second in the long run, for each key by itself.

    Whoever was not seen for longest is forgotten when there are more than `most` keys: that only gives back a burst.
    """

    def __init__(self, rate: float, burst: int, most: int = MOST_BUCKETS) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._most = most
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, now: float) -> float:
        """0.0 when `key` may go on, which counts; else the seconds until it may, which costs nothing."""
        bucket = self._filled(key, now)
        if bucket.level >= 1.0:
            bucket.level -= 1.0
            return 0.0
        return (1.0 - bucket.level) / self._rate

    def _filled(self, key: str, now: float) -> _Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(self._burst, now)
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
            return bucket
        self._buckets.move_to_end(key)
        bucket.level = min(self._burst, bucket.level + max(now - bucket.at, 0.0) * self._rate)
        bucket.at = max(now, bucket.at)
        return bucket
