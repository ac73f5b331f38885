"""What `tc` is told in a container, so that its links are as slow as those of the machine that it stands for.

What leaves a container is sorted by receiver (HTB, used as a sorter only: its own rate is beyond every link) and waits
in a token bucket of the link's rate (tbf): HTB alone does not split the large segments that virtual Ethernet carries,
and a queue of 20 ms would drop them. What enters is shaped where it leaves: at the other end. A rate is that of whole
Ethernet frames, as a machine's link has it; TCP carries 95.6 % of it at best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NO_LINK_BYTES_PER_S = 8_000.0
"""Where the cluster has no link: the broker's own words must pass, and no tensor is meant to."""

QUEUE_MS = 20
_BEYOND = "40gbit"
_BURSTS = ((10e6, 16), (50e6, 64), (100e6, 128))
_MOST_BURST_KIB = 256

DEVICE = "DEVICE"
"""Stands for the interface in `commands`: an engine may choose another name when a container is connected again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """From a container to an address. `delay_ms` and `loss_percent` need a kernel with netem."""

    address: str
    bytes_per_s: float
    delay_ms: float = 0.0
    loss_percent: float = 0.0

    @property
    def needs_netem(self) -> bool:
        return self.delay_ms > 0 or self.loss_percent > 0


def burst_kib(bits_per_s: float) -> int:
    """What may leave at once: enough for the kernel's timer, and little against 20 ms of the link (measured with NATS:
    95 to 96 % of 10, 50, 100 and 1000 Mbit/s)."""
    return next((kib for rate, kib in _BURSTS if bits_per_s <= rate), _MOST_BURST_KIB)


def commands(links: Sequence[Link], *, netem: bool) -> list[str]:
    """Lines for `tc -batch`, which replace all that was there. Without `netem` delay and loss are left out."""
    lines = [f"qdisc replace dev {DEVICE} root handle 1: htb default 0"]
    for number, link in enumerate(links, start=1):
        lines += _of(link, f"{number:x}", f"{0x100 + number:x}", f"{0x300 + number:x}", netem=netem)
    return lines


def _of(link: Link, minor: str, handle: str, under: str, *, netem: bool) -> list[str]:
    bits_per_s = max(link.bytes_per_s, NO_LINK_BYTES_PER_S) * 8
    bucket = f"tbf rate {bits_per_s:.0f}bit burst {burst_kib(bits_per_s)}kb latency {QUEUE_MS}ms"
    lines = [f"class replace dev {DEVICE} parent 1: classid 1:{minor} htb rate {_BEYOND} quantum 60000"]
    if netem and link.needs_netem:
        loss = f" loss {link.loss_percent:g}%" if link.loss_percent else ""
        lines += [
            f"qdisc replace dev {DEVICE} parent 1:{minor} handle {handle}: "
            f"netem delay {link.delay_ms:g}ms{loss} limit 10000",
            f"qdisc replace dev {DEVICE} parent {handle}:1 handle {under}: {bucket}",
        ]
    else:
        lines += [f"qdisc replace dev {DEVICE} parent 1:{minor} handle {handle}: {bucket}"]
    to = f"match ip dst {link.address}/32 flowid 1:{minor}"
    return [*lines, f"filter add dev {DEVICE} parent 1: protocol ip prio 1 u32 {to}"]


APPLY = (
    # The interface that is not the loopback; what was there goes first, since filters would be added twice.
    "device=$(ip -o -4 addr show scope global | awk '{print $2; exit}') && "
    '{ tc qdisc del dev "$device" root 2>/dev/null; sed "s/' + DEVICE + '/$device/g" | tc -batch -; }'
)
"""For `sh -c`, with `commands` on stdin, as root."""
