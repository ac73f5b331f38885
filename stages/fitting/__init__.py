"""What can replace a lost stage, fitted in closed form to what the network itself computes for calibration images."""

from stages.fitting.fit import derive_parts, fit_parts
from stages.fitting.measure import measure
from stages.fitting.parts import FittedPart, part_of
from stages.fitting.quantise import quantised
from stages.fitting.skips import can_skip, skip_model

__all__ = ["FittedPart", "can_skip", "derive_parts", "fit_parts", "measure", "part_of", "quantised", "skip_model"]
