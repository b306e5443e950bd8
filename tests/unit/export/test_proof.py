import json
from dataclasses import replace

import pytest

from whet.errors import GateError
from whet.export.answers import Agreement
from whet.export.proof import FLOAT32, ROUNDED, Proof, require

AGREEMENT = Agreement(
    reader="transformers",
    num_positions=600,
    max_logit_difference=2e-4,
    relative_logit_difference=5e-6,
    mean_kl=1e-9,
    max_kl=1e-8,
    top1_agreement=1.0,
    greedy_agreement=1.0,
)
PROOF = Proof(
    limits=FLOAT32, num_prompts=12, changed_by_tuning=0.2, agreements=(AGREEMENT,), tokenizer={"stop tokens": True}
)


def with_agreement(**values):
    return replace(PROOF, agreements=(AGREEMENT, replace(AGREEMENT, reader="peft", **values)))


def test_an_equal_artefact_passes(tmp_path):
    assert PROOF.faults == []
    require(PROOF, tmp_path)


def test_one_reader_over_the_limit_is_enough(tmp_path):
    proof = with_agreement(relative_logit_difference=1.1e-4)
    assert proof.faults == ["read by peft: relative logit difference 0.00011 over 0.0001"]
    with pytest.raises(GateError, match=r"(?s)read by peft.*nothing was written.*mend: ") as caught:
        require(proof, tmp_path / "out")
    assert caught.value.exit_code == 8


def test_rounded_files_are_limited_in_mean_kl_alone():
    proof = replace(with_agreement(relative_logit_difference=0.1, mean_kl=9e-4), limits=ROUNDED)
    assert proof.faults == []
    assert replace(with_agreement(mean_kl=1.1e-3), limits=ROUNDED).faults


@pytest.mark.parametrize(
    ("limits", "name"), [(FLOAT32, "relative_logit_difference"), (ROUNDED, "mean_kl")], ids=["float32", "rounded"]
)
def test_a_number_that_is_none_is_over_every_limit(limits, name):
    assert replace(with_agreement(**{name: float("nan")}), limits=limits).faults


def test_another_tokenizer_is_a_fault_by_name():
    assert replace(PROOF, tokenizer={"stop tokens": False}).faults == ["stop tokens differs"]


def test_the_sentence_has_the_worst_numbers():
    sentence = with_agreement(max_logit_difference=0.3, mean_kl=2e-5, greedy_agreement=0.75).sentence()
    assert "transformers and peft" in sentence
    for number in ("600 positions of 12 prompts", "0.3", "2e-05", "75.0%"):
        assert number in sentence
    assert json.dumps(sentence)
