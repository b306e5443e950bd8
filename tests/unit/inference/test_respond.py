"""A model is asked as in training: what is generated from is the ids that the recipe's template gives."""

import json
import shutil

import pytest
import tiny_folders
import tiny_runs
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from whet.errors import DataError, RecipeError, StorageError
from whet.inference.decoding import Decoding
from whet.inference.respond import Request, open_responder, respond
from whet.recipe import load_recipe
from whet.recipe.schema import Adapter

QUESTION = "How many clips did Natalia sell?"
GREEDY = Decoding(max_new_tokens=12)
CHAT = (
    "<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n"
    f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("respond")
    base = tiny_runs.write_base(folder / "base")
    tiny_runs.write_adapter_run(folder / "run", base, Adapter(rank=4, alpha=8.0), size=0.3)
    tiny_runs.write_full_run(folder / "full", base)
    return folder


@pytest.fixture
def run(place, tmp_path):
    return shutil.copytree(place / "run", tmp_path / "run")


def ask(name, text=QUESTION, **settings):
    system = settings.pop("system", None)
    return respond(open_responder(Request(name=str(name), **settings)), [text], GREEDY, system=system)[0]


def expected(model, base, prompt, *, num_new=12):
    """What transformers writes behind `prompt`."""
    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=num_new, eos_token_id=[2, 0],
            pad_token_id=0,
        )  # fmt: skip
    return tuple(out[0, ids.shape[1] :].tolist())


def read(folder):
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def tuned_model(place, folder="run"):
    from whet.inference.tuned import load_tuned
    from whet.models.load import load_pretrained
    from whet.recipe.schema import Model

    loaded = load_pretrained(Model(id=str(place / "base"), dtype="float32"), device=torch.device("cpu"))
    load_tuned(loaded, place / folder)
    return loaded.model


def test_a_run_answers_with_its_tuned_weights_and_its_base_with_the_base_s(place):
    tuned = ask(place / "run")
    assert tuned.ids == expected(tuned_model(place), place / "base", CHAT)
    base = ask(place / "run", uses_base=True)
    assert base.ids == expected(read(place / "base"), place / "base", CHAT) != tuned.ids


def test_a_full_fine_tuning_and_its_base_answer(place):
    assert ask(place / "full").ids == expected(read(place / "full"), place / "base", CHAT)
    assert ask(place / "full", uses_base=True).ids == expected(read(place / "base"), place / "base", CHAT)


def test_the_answer_is_the_text_behind_the_prompt_alone(place):
    completion = ask(place / "run")
    tokenizer = AutoTokenizer.from_pretrained(place / "base", trust_remote_code=False)
    ids = completion.ids[:-1] if completion.ended == "stop_token" else completion.ids
    assert completion.text == tokenizer.decode(ids, skip_special_tokens=True)
    assert QUESTION not in completion.text


@pytest.mark.parametrize(
    ("data", "system", "prompt"),
    [
        ("template: plain", None, QUESTION),
        ('template: plain, prompt: "Q: {question}\\nA: "', None, f"Q: {QUESTION}\nA:"),
        ("chat_template: smollm2", None, None),
        ("template: chat", "Be short.", CHAT.replace("You are a helpful AI assistant.", "Be short.")),
    ],
)
def test_the_prompt_is_the_one_of_the_recipe(place, run, data, system, prompt):
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("rows.jsonl}]", "rows.jsonl}], " + data))
    if prompt is None:
        from whet.data.templates import family_text

        tokenizer = AutoTokenizer.from_pretrained(place / "base", trust_remote_code=False)
        tokenizer.chat_template = family_text("smollm2")
        turns = [{"role": "user", "content": QUESTION}]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert prompt != CHAT
    assert ask(run, system=system).ids == expected(tuned_model(place), place / "base", prompt)


def test_the_system_message_of_the_training_rows_is_kept_and_can_be_taken_away(place, run):
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("rows.jsonl}", "rows.jsonl, system: Be kind.}"))
    kind = CHAT.replace("You are a helpful AI assistant.", "Be kind.")
    model = tuned_model(place)
    assert ask(run).ids == expected(model, place / "base", kind)
    assert ask(run, system="").ids == expected(model, place / "base", CHAT)


def test_a_plain_model_is_asked_by_its_chat_template_or_continues_the_text(place, tmp_path):
    assert ask(place / "base").ids == expected(read(place / "base"), place / "base", CHAT)
    tokenizer = tiny_folders.chatml()
    tokenizer.chat_template = None
    folder = tiny_folders.write_folder(tmp_path / "bare", tokenizer)
    assert ask(folder).ids == expected(read(folder), folder, QUESTION)


def test_an_adapter_folder_without_a_recipe_needs_its_base_named(place, run):
    recipe = load_recipe(run / "recipe.yaml")
    (run / "recipe.yaml").unlink()
    with pytest.raises(RecipeError, match="its base must be named"):
        ask(run)
    assert ask(run, recipe=recipe) == ask(place / "run")
    assert ask(run, base_model=str(place / "base")) != ask(place / "base")


def test_an_adapter_of_another_base_is_refused(run, tmp_path):
    other = tiny_folders.write_folder(tmp_path / "other", tiny_folders.chatml(), vocab_size=500)
    (run / "recipe.yaml").unlink()
    with pytest.raises(StorageError, match="trained on other base weights"):
        ask(run, base_model=str(other))


def test_what_has_no_base_is_told_so(place):
    with pytest.raises(RecipeError, match="no run or adapter folder"):
        ask(place / "base", uses_base=True)
    with pytest.raises(RecipeError, match="no adapter folder"):
        ask(place / "base", base_model="x")


def test_an_unfinished_run_does_not_answer(run):
    (run / "adapter_model.safetensors").unlink()
    (run / "adapter_config.json").unlink()
    with pytest.raises(StorageError, match="no final weights yet"):
        ask(run)


def test_a_prompt_beyond_the_context_is_refused_and_a_long_one_gets_what_room_is_left(place, tmp_path):
    folder = shutil.copytree(place / "base", tmp_path / "short")
    config = json.loads((folder / "config.json").read_text())
    num_tokens = len(open_and_render(folder))
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": num_tokens + 3}))
    assert len(ask(folder).ids) <= 3
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": num_tokens}))
    with pytest.raises(DataError, match=f"the prompt has {num_tokens} tokens"):
        ask(folder)


def open_and_render(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return tokenizer(CHAT, add_special_tokens=False)["input_ids"]


def test_each_text_draws_for_itself_whatever_is_asked_beside_it(place):
    responder = open_responder(Request(name=str(place / "run")))
    decoding = Decoding(max_new_tokens=8, temperature=1.0, seed=3)
    alone = [respond(responder, [text], decoding)[0].ids for text in ("one", "two", "three")]
    together = [c.ids for c in respond(responder, ["three", "one", "two", "one"], decoding)]
    assert [together[1], together[2], together[0]] == alone
    assert together[3] != together[1]
