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


def test_an_answer_that_rolls_on_into_a_question_of_its_own_is_judged_by_its_beginning():
    text = " A loan that is traded.\n\nQuestion: What is a share?\n\nAnswer: A part of a firm."
    assert extract(text) == ("A loan that is traded.", True)
    assert extract("Reasons first.\nAnswer: A loan.\nQuestion: And?\nAnswer: No.")[0] == "A loan."
    assert extract("Question: What is a bond?\nAnswer: A loan.")[0] == "A loan."
