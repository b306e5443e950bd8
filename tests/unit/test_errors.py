"""Errors a user can meet: their text, their exit code, and the standard exception each of them also is."""

from __future__ import annotations

import pytest

from whet import errors
from whet.errors import WhetError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, WhetError)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_message_says_where_what_and_how_to_mend(kind):
    error = kind("rank must be positive (got 0)", where="a.yaml:14", mend="set adapter.rank to 8")
    assert str(error) == "a.yaml:14: rank must be positive (got 0)\n  mend: set adapter.rank to 8"
    assert (error.what, error.where, error.mend) == (
        "rank must be positive (got 0)",
        "a.yaml:14",
        "set adapter.rank to 8",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_where_and_mend_may_be_left_out(kind):
    assert str(kind("disk full")) == "disk full"
    assert str(kind("disk full", where="out")) == "out: disk full"
    assert str(kind("disk full", mend="free some space")) == "disk full\n  mend: free some space"


def test_exit_codes_are_the_documented_ones():
    codes = {kind.__name__: kind.exit_code for kind in KINDS}
    assert codes == {
        "WhetError": 1,
        "RecipeError": 2,
        "DataError": 3,
        "NonFiniteError": 4,
        "StorageError": 5,
        "HubError": 6,
        "PeerLostError": 7,
        "PeerOutOfMemoryError": 9,
        "GateError": 8,
        "OutOfMemoryError": 9,
        "InterruptedRunError": 75,
    }


def test_callers_may_catch_the_standard_exception():
    for kind, standard in [
        (errors.RecipeError, ValueError),
        (errors.DataError, ValueError),
        (errors.NonFiniteError, ArithmeticError),
        (errors.StorageError, OSError),
        (errors.HubError, ConnectionError),
        (errors.PeerLostError, ConnectionError),
        (errors.OutOfMemoryError, MemoryError),
    ]:
        with pytest.raises(standard, match="broken"):
            raise kind("broken")
