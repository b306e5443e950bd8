"""What a reader cannot see, or what steers a terminal, is written out."""

import pytest

from whet.visible import spelled_out


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]52;c;cm0gLXJm\x07", "<U+001B>]52;c;cm0gLXJm<U+0007>"),
        ("done\rerror", "done<U+000D>error"),
        ("\x9b2J\x08\x7f", "<U+009B>2J<U+0008><U+007F>"),
        ("a\u202eb\u2066c", "a<U+202E>b<U+2066>c"),
        ("\ud800", "<U+D800>"),
        (
            "two\r\nlines\tand \u00e9\u6771 \U0001f469\u200d\U0001f680",
            "two\nlines\tand \u00e9\u6771 \U0001f469\u200d\U0001f680",
        ),
    ],
)
def test_what_cannot_be_seen_is_spelled_out_and_the_rest_stays(text, shown):
    assert spelled_out(text) == shown
