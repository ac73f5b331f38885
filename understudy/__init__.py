"""Understudy: one neural network across a cluster of small machines that keeps answering when machines fail.

async with understudy.connect(url, pipeline) as client:
    result = await client.infer(image)
"""

from broker.errors import (
    BrokerError,
    BrokerUnreachableError,
    PayloadTooLargeError,
    UnderstudyError,
)
from understudy.client import Client, FrameRejectedError, FrameTimeoutError, connect
from understudy.discovery import UnknownPipelineError
from understudy.frames import Frame
from understudy.result import Result

__all__ = [
    "connect",
    "Client",
    "Frame",
    "Result",
    "UnderstudyError",
    "BrokerError",
    "BrokerUnreachableError",
    "FrameRejectedError",
    "FrameTimeoutError",
    "PayloadTooLargeError",
    "UnknownPipelineError",
]
