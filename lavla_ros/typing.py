"""Types and units that every room uses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

NS_PER_S = 1_000_000_000
"""Nanoseconds in a second: stamps are integers of nanoseconds."""
