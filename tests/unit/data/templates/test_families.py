"""Chat templates by name, the reasoning switch, and the tokenizers that they do not fit."""

import pytest
from transformers import PreTrainedTokenizerFast

from whet.data import templates
from whet.errors import DataError, RecipeError
from whet.recipe.schema import Data, Source
from whet.types import Message

EOT, IM_END = 4, 2
ROWS = (Source(source="rows.jsonl"),)


def _turns(*contents, system=None):
    turns = [] if system is None else [Message(role="system", content=system)]
    for index, content in enumerate(contents):
        turns.append(Message(role=("user", "assistant")[index % 2], content=content, is_taught=bool(index % 2)))
    return tuple(turns)


def _text(tokenizer, messages, **settings):
    end = EOT if "<|eot_id|>" in tokenizer.get_added_vocab() else IM_END
    template = templates.build_template(tokenizer, "chat", [end], **settings)
    return templates.render(template, messages, origin="rows.jsonl:7").texts[-1]


def _llama(*turns):
    written = [f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>" for role, content in turns]
    return "<|begin_of_text|>" + "".join(written)


def test_llama_3_trims_and_adds_nothing(llama3):
    text = _text(llama3, _turns(" a\n", "b ", system=""), chat_template="llama-3")
    assert text == _llama(("system", ""), ("user", "a"), ("assistant", "b"))
    assert _text(llama3, _turns("a", "b"), chat_template="llama-3") == _llama(("user", "a"), ("assistant", "b"))


@pytest.mark.parametrize(("system", "written"), [(None, ""), ("", ""), (" Be brief.\n", "Be brief.")])
def test_llama_3_1_begins_with_the_same_dates_every_day(llama3, system, written):
    dates = f"Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n{written}"
    text = _text(llama3, _turns("a", "b", system=system), chat_template="llama-3.1")
    assert text == _llama(("system", dates), ("user", "a"), ("assistant", "b"))


def test_smollm2_has_its_system_turn_unless_the_row_brings_one(chatml):
    default = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    for system, written in ((None, default), ("", ""), (" x ", " x ")):
        assert _text(chatml, _turns("a", " b", system=system), chat_template="smollm2") == (
            f"<|im_start|>system\n{written}<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
            "<|im_start|>assistant\n b<|im_end|>\n"
        )


def test_nemotron_nano_has_its_switch_in_the_system_turn(llama3):
    """Structure only: the template is not verified, because no source of it was at hand."""

    def system_of(system, reasoning):
        text = _text(llama3, _turns("a", "b", system=system), chat_template="nemotron-nano", reasoning=reasoning)
        rest = _llama(("user", "a"), ("assistant", "b")).removeprefix("<|begin_of_text|>")
        assert text.endswith(rest)
        return text.removesuffix(rest).removeprefix(_llama(("system", "")).removesuffix("<|eot_id|>"))

    assert system_of(None, "on") == "detailed thinking on<|eot_id|>"
    assert system_of("", "off") == "detailed thinking off<|eot_id|>"
    assert system_of("Be brief.", "on") == "detailed thinking on\nBe brief.<|eot_id|>"
    assert system_of("Detailed thinking on.\nBe brief.", "on") == "Detailed thinking on.\nBe brief.<|eot_id|>"
    assert system_of("Be brief.", None) == "Be brief.<|eot_id|>"
    assert system_of(None, None) == "<|eot_id|>"
    with pytest.raises(DataError, match=r"rows.jsonl:7: .*'detailed thinking off'.*`data.reasoning: on`"):
        system_of("detailed thinking off", "on")


def test_the_prompt_of_a_chat_carries_the_switch_too(llama3):
    template = templates.build_template(llama3, "chat", [EOT], chat_template="nemotron-nano", reasoning="off")
    prompt = llama3.decode(templates.prompt_ids(template, _turns("a")))
    assert "detailed thinking off<|eot_id|>" in prompt
    assert prompt.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")


def test_the_reasoning_switch_is_refused_where_the_template_does_not_know_it(chatml, llama3):
    for tokenizer, end in ((chatml, IM_END), (llama3, EOT)):
        for kind in ("chat", "plain"):
            with pytest.raises(RecipeError, match=r"`data.reasoning: on` is Nemotron-Nano's switch"):
                templates.build_template(tokenizer, kind, [end], reasoning="on")
    renamed = _copy(llama3, chat_template=llama3.chat_template)
    renamed.name_or_path = "nvidia/Llama-3.1-Nemotron-Nano-8B-v1"
    assert templates.build_template(renamed, "chat", [EOT], reasoning="on").reasoning == "on"
    renamed.name_or_path = "nvidia/NVIDIA-Nemotron-Nano-9B-v2"
    with pytest.raises(RecipeError, match="which this chat template does not know"):
        templates.build_template(renamed, "chat", [EOT], reasoning="on")
    mentions = _copy(llama3, chat_template=llama3.chat_template + "{# detailed thinking on or off #}")
    assert templates.build_template(mentions, "chat", [EOT], reasoning="off").reasoning == "off"


@pytest.mark.parametrize("family", ["llama-3", "llama-3.1", "nemotron-nano"])
def test_a_family_whose_tokens_the_tokenizer_lacks_is_refused(chatml, family):
    with pytest.raises(RecipeError, match=rf"`data.chat_template: {family}` writes <\|begin_of_text\|>, .*no token"):
        templates.build_template(chatml, "chat", [IM_END], chat_template=family)


def test_a_family_that_ends_a_turn_where_generation_does_not_stop_is_refused_unless_told(llama3):
    data = Data(train=ROWS, chat_template="llama-3.1")
    end_of_text = 1
    with pytest.raises(RecipeError, match=r"ends a turn with <\|eot_id\|>, which generation does not stop at"):
        templates.template_for(llama3, data, [end_of_text])
    ends = templates.end_ids_for(llama3, data, [end_of_text])
    assert ends == (end_of_text, EOT)
    assert templates.template_for(llama3, data, ends).end_ids == {end_of_text, EOT}
    assert templates.end_ids_for(llama3, Data(train=ROWS), [end_of_text]) == (end_of_text,)


def test_template_for_reads_the_recipes_data_section(llama3, chatml):
    data = Data(train=ROWS, chat_template="nemotron-nano", reasoning="on")
    template = templates.template_for(llama3, data, [EOT])
    assert (template.kind, template.chat.name, template.reasoning) == ("chat", "the chat template nemotron-nano", "on")
    data = Data(train=ROWS, template="plain", prompt="gsm8k")
    template = templates.template_for(chatml, data, [IM_END])
    assert template.chat is None
    assert template.prompt[1] == "\n\n### Answer:\n"


def test_every_family_has_its_text_and_a_base_tokenizer_can_take_it(llama3, chatml):
    for name, family in templates.FAMILIES.items():
        tokenizer = llama3 if "<|eot_id|>" in family.control_tokens else chatml
        bare = _copy(tokenizer, chat_template=None)
        messages = _turns("a", "b", "c", "d", system="s")
        text = _text(bare, messages, chat_template=name)
        carried = _copy(tokenizer, chat_template=templates.family_text(name))
        assert text == _text(carried, messages)
        assert all(token in text for token in family.control_tokens)
        assert family.end_of_turn in family.control_tokens


def test_llama_3_refuses_what_it_has_no_turn_for(llama3):
    turns = (*_turns("a", "b"), Message(role="tool", content="4"), *_turns("c", "d"))
    with pytest.raises(DataError, match=r"rows.jsonl:7: .*no turn of the role tool: use llama-3.1"):
        _text(llama3, turns, chat_template="llama-3")


def test_of_a_tokenizers_several_templates_the_default_is_taken_and_tool_use_with_tools(chatml):
    turns = "{{ tools[0].name if tools }}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    both = _copy(chatml, chat_template={"default": "D" + turns, "tool_use": "T" + turns})
    template = templates.build_template(both, "chat", [IM_END])
    assert templates.render(template, _turns("a", "b"), origin="").texts[-1].startswith("D")
    assert templates.render(template, _turns("a", "b"), origin="", tools='[{"name": "f"}]').texts[-1].startswith("T")


def _copy(tokenizer, chat_template):
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        chat_template=chat_template,
    )
