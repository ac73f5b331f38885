"""Picks the back end by URL scheme. The adapters are imported here, lazily, and nowhere else."""

from __future__ import annotations

from broker.port import Broker
from broker.url import MEMORY_SCHEME, MQTT_SCHEMES, parse_broker_url


async def connect(url: str, *, name: str = "understudy", connect_timeout_s: float = 2.0) -> Broker:
    """Connect to the broker at `url`: `nats://`, `tls://`, `mqtt://`, `mqtts://` (also a list of servers, with commas),
    or `memory://name`.

    `name` is what the broker's monitoring shows for this connection. A server that is not there yet is tried again
    until `connect_timeout_s` has passed; wrong credentials fail at once.

    Raises:
        BrokerUnreachableError: no server answers within the timeout, or it refused the credentials.
        BrokerError: the URL is not valid or its scheme is unknown.
    """
    parsed = parse_broker_url(url)
    if parsed.scheme == MEMORY_SCHEME:
        from broker.memory import MemoryBroker

        return await MemoryBroker.connect(parsed)
    if parsed.scheme in MQTT_SCHEMES:
        from broker.mqtt import MqttBroker

        return await MqttBroker.connect(parsed, name=name, connect_timeout_s=connect_timeout_s)
    from broker.nats import NatsBroker

    return await NatsBroker.connect(parsed, name=name, connect_timeout_s=connect_timeout_s)
