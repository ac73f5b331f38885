"""The root error, and the errors of the broker package.

Every error that a user can meet derives from `UnderstudyError`. Its message says what, where and what to do; the facts
are attributes. The command line prints the message alone and exits with `exit_code`.
"""

from __future__ import annotations


class UnderstudyError(Exception):
    """Root of every error of ours. The message is one sentence or two that a user can act on."""

    exit_code = 2


class BrokerError(UnderstudyError):
    """The broker refused something or cannot do it."""


class BrokerUnreachableError(BrokerError):
    """No broker answers at the URL (after the connect timeout), or it refused the credentials."""


class BrokerClosedError(BrokerError):
    """The connection was closed by us; nothing can be published or received any more."""


class NoRespondersError(BrokerError):
    """A request was sent to a subject that nobody listens to."""


class RequestTimeoutError(BrokerError):
    """A request was sent and not answered in time."""


class PermissionDeniedError(BrokerError):
    """The broker does not let this user publish, or subscribe, to a subject."""

    def __init__(self, action: str, subject: str, who: str = "this user") -> None:
        self.action = action
        self.subject = subject
        super().__init__(
            f"{who} may not {action} to '{subject}': connect as a user whose role needs it (docs/security.md), "
            f"on the control account with --control-broker"
        )


class PayloadTooLargeError(BrokerError):
    """A payload exceeds the broker's limit; nothing was sent."""

    def __init__(self, subject: str, size_bytes: int, limit_bytes: int) -> None:
        self.subject = subject
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        super().__init__(
            f"a message of {size_bytes} bytes for '{subject}' exceeds the broker's limit of {limit_bytes} bytes: "
            f"send a smaller frame, or raise max_payload on the broker"
        )


class SubjectError(BrokerError):
    """A pipeline or node name cannot be part of a subject."""


class WireError(UnderstudyError):
    """Bytes are not a valid message of ours. `reason` says which rule they break."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class ServerStartError(BrokerError):
    """The embedded nats-server did not start."""
