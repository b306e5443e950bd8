from whet.data.datasets.plain_answer import extract, is_correct


def test_the_whole_text_is_the_answer_unless_a_marker_gives_it():
    assert extract(" Paris is it. \n") == ("Paris is it.", True)
    assert extract("Thinking.\nAnswer: Paris\nAnswer: Rome") == ("Paris", True)
    assert extract("  \n") == ("", False)


def test_text_is_compared_exactly_but_for_white_space_and_composition():
    assert is_correct("caf\u00e9  au\nlait", ("cafe\u0301 au lait",))
    assert is_correct("b", ("a", "b"))
    assert not is_correct("Paris", ("paris",))
    assert not is_correct("Paris, France", ("Paris",))
    assert not is_correct("", ())
