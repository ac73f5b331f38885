"""Which bundle a command means."""

from __future__ import annotations

from pathlib import Path

from broker.errors import UnderstudyError
from stages.bundle import Bundle, bundle_from_model
from understudy.data import digits_bundle


def open_bundle(bundle: Path | None, model: Path | None) -> Bundle:
    """The bundle, verified; or one made up for a bare model; or the digits bundle.

    Raises:
        BundleError, ModelError: it cannot be used; says why.
        UnderstudyError: both are given.
    """
    if bundle is not None and model is not None:
        raise UnderstudyError("--bundle and --model are both given: one of them")
    if model is not None:
        return bundle_from_model(model)
    return digits_bundle() if bundle is None else Bundle.load(bundle)
