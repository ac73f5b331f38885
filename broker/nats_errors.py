"""nats-py's errors, and the operating system's, as ours. A literal map: what is not in it is a plain BrokerError."""

from __future__ import annotations

from nats import errors

from broker.errors import BrokerClosedError, BrokerError
from broker.tls import handshake_failure


class OutboundBufferFullError(Exception):
    """Not connected, and what is published now would not fit in the outbound buffer."""


class AuthorizationFailedError(Exception):
    """Raised through nats-py's connect, which would otherwise try the same credentials for ever."""


class UnusableServerError(errors.Error):
    """There is a server, and trying it again changes nothing: TLS where there is none, a certificate that is not
    trusted, a key that it does not know. The message says what to do."""


def translate(error: Exception, *, url: str, subject: str = "") -> BrokerError:
    """Our error for one of nats-py's; to be raised `from` it. `url` has no credentials."""
    match error:
        case errors.ConnectionClosedError() | errors.ConnectionDrainingError():
            return BrokerClosedError(f"the connection to {url} is closed")
        case OutboundBufferFullError() | errors.OutboundBufferLimitError():
            return BrokerError(f"not connected to {url}, and the outbound buffer is full")
        case errors.BadSubjectError():
            return BrokerError(f"'{subject}' is not a subject")
        case _:
            return BrokerError(f"the broker at {url} failed: {error}")


def reason(error: Exception) -> str:
    """Why no connection was made, in a few words."""
    if (tls := handshake_failure(error)) is not None:
        return tls
    match error:
        case ConnectionRefusedError():
            return "connection refused"
        case TimeoutError():
            return "timed out"
        case OSError():
            # asyncio wraps the reasons of several addresses in one OSError without an errno.
            text = error.strerror or str(error)
            return "connection refused" if "refused" in text.lower() or "Connect call failed" in text else text
        case _:
            return str(error) or type(error).__name__
