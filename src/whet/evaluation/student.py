"""Student's t distribution for any degrees of freedom from 1 on, by Gauss-Legendre quadrature."""

from __future__ import annotations

from functools import lru_cache
from math import atan, exp, lgamma, log, pi, sqrt

import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
SMALLEST_P = 1e-12
"""below this the quadrature's own error would speak"""


def two_sided_p(t: float, degrees: float) -> float:
    """P(|T| > |t|), at least SMALLEST_P.

    With t = sqrt(k) tan(angle) the density of k degrees becomes c cos(angle)^(k-1), smooth on a bounded range.
    """
    # beyond 12 / sqrt(k) the integrand is below exp(-72)
    angle = min(atan(abs(t) / sqrt(degrees)), 12 / sqrt(degrees))
    log_scale = lgamma((degrees + 1) / 2) - lgamma(degrees / 2) - log(pi) / 2
    angles = angle * (_NODES + 1) / 2
    inside = angle * exp(log_scale) * float(_WEIGHTS @ np.cos(angles) ** (degrees - 1))
    return min(1.0, max(SMALLEST_P, 1 - inside))


@lru_cache(maxsize=256)
def quantile(share: float, degrees: float) -> float:
    """The t below which T lies with probability `share`, from 0.5 to 0.9999; bisected to eight digits."""
    low, high = 0.0, 1.0
    while two_sided_p(high, degrees) > 2 * (1 - share):
        low, high = high, 2 * high
    while high - low > 1e-8 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, degrees) > 2 * (1 - share) else (low, middle)
    return (low + high) / 2
