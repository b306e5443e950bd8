"""Student's t equals scipy's for any degrees of freedom."""

import pytest
from scipy import stats

from whet.evaluation import student


@pytest.mark.parametrize("degrees", [1, 1.5, 2, 3, 8, 63, 127.5, 1318, 20_000])
def test_quantiles_and_p_values_equal_scipy(degrees):
    for share in (0.6, 0.8, 0.95, 0.975, 0.995, 0.9999):
        assert student.quantile(share, degrees) == pytest.approx(stats.t.ppf(share, degrees), rel=1e-7)
    for t in (0.0, 0.1, -1.0, 3.0, 12.7, 100.0):
        assert student.two_sided_p(t, degrees) == pytest.approx(2 * stats.t.sf(abs(t), degrees), abs=1e-10)


def test_p_is_never_zero():
    assert student.two_sided_p(1e6, 500) == student.SMALLEST_P
