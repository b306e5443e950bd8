"""What whet asks of vLLM and how it reads the answer; vLLM itself is a stand-in with its public names."""

import sys

import fake_vllm
import pytest

from whet.errors import DataError, RecipeError
from whet.inference import vllm_backend
from whet.inference.decoding import Decoding
from whet.inference.vllm_backend import read_output, require_vllm, sampling_settings

GREEDY = Decoding(max_new_tokens=20, max_total_tokens=30, stop_strings=("END",))


def letters(ids):
    return "".join(chr(token) for token in ids)


def output(text, *, finish_reason, stop_reason, end=()):
    return fake_vllm.CompletionOutput(
        token_ids=[*map(ord, text), *end], text="vLLM's own text", finish_reason=finish_reason, stop_reason=stop_reason
    )


def read(found):
    return read_output(found, key="row-1", decoding=GREEDY, decode=letters)


def test_without_the_package_the_way_to_it_is_named():
    with pytest.raises(RecipeError, match="not installed") as error:
        require_vllm()
    assert "whet[vllm]" in error.value.mend


def test_decoding_says_all_that_vllm_is_asked():
    fake_vllm.SamplingParams(**sampling_settings(GREEDY, "a", 5, frozenset({9, 2})))  # knows every name
    assert sampling_settings(GREEDY, "a", 5, frozenset({9, 2})) == {
        "temperature": 0.0, "top_p": 1.0, "top_k": -1, "seed": None, "max_tokens": 20, "stop": ["END"],
        "stop_token_ids": [2, 9], "ignore_eos": True, "skip_special_tokens": True,
        "spaces_between_special_tokens": False,
    }  # fmt: skip
    # a long prompt leaves less room
    assert sampling_settings(GREEDY, "a", 25, frozenset())["max_tokens"] == 5


def test_each_row_draws_from_a_seed_of_its_own():
    decoding = Decoding(max_new_tokens=5, temperature=0.7, top_k=4, seed=3)
    seeds = [sampling_settings(decoding, key, 5, frozenset())["seed"] for key in ("a", "b", "a")]
    assert seeds[0] == seeds[2] != seeds[1] and all(0 <= seed < 2**31 for seed in seeds)
    assert sampling_settings(decoding, "a", 5, frozenset())["top_k"] == 4


def test_a_stop_token_ends_an_answer_and_is_not_its_text():
    found = read(output("four", finish_reason="stop", stop_reason=2, end=(2,)))
    assert (found.ended, found.text, found.ids[-1], found.has_stopped) == ("stop_token", "four", 2, True)


def test_a_stop_string_is_cut_off_where_whet_s_decoder_finds_it():
    found = read(output("four END", finish_reason="stop", stop_reason="END"))
    assert (found.ended, found.text) == ("stop_string", "four ")
    assert read(output("fo", finish_reason="stop", stop_reason="END")).text == "vLLM's own text"


def test_the_length_limit_is_no_stop():
    found = read(output("four", finish_reason="length", stop_reason=None))
    assert (found.ended, found.text, found.has_stopped) == ("length", "four", False)


@pytest.mark.parametrize(("finish", "stop"), [("abort", None), ("stop", None), (None, None)])
def test_any_other_end_is_an_error_that_names_the_row(finish, stop):
    with pytest.raises(DataError, match="ended an answer by") as error:
        read(output("four", finish_reason=finish, stop_reason=stop))
    assert error.value.where == "row row-1"


@pytest.mark.parametrize("temperature", [0.001, 2.5])
def test_temperatures_that_vllm_would_change_or_refuse_are_refused(monkeypatch, temperature):
    for name, module in fake_vllm.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    engine = vllm_backend.VllmEngine.__new__(vllm_backend.VllmEngine)
    decoding = Decoding(max_new_tokens=5, temperature=temperature)
    with pytest.raises(RecipeError, match=r"temperatures from 0\.01 to 2"):
        engine.generate([[1]], stop_ids=frozenset(), decoding=decoding, keys=["a"], decode=letters)
