"""What every chat template and prompt makes of one row of every dataset's shape: tests/golden/masks.json.

`python tests/support/golden_masks.py` writes the file anew; read the difference before committing it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tiny_tokenizers

from whet.data import templates
from whet.data.formats import FORMATS
from whet.errors import DataError
from whet.types import Example

GOLDEN = Path(__file__).parents[1] / "golden" / "masks.json"

# sentences of our own in the shape of each dataset
ROWS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "Ada has 2 pens and buys 3.\nHow many has she?", "answer": "2+3 = <<2+3=5>>5\n#### 5"},
    "metamathqa": {"query": "What is 4 plus 4?", "response": "4 + 4 = 8\n#### 8\nThe answer is: 8"},
    "fiqa": {"question": "What is a bond?", "ground_truths": ["A loan that one can sell.", "A debt."]},
    "dolly": {"instruction": "Who sings?", "context": "Ada sings, Ben listens.", "response": "Ada"},
    "squad": {
        "context": "Ada sings, Ben listens.",
        "question": "Who listens?",
        "answers": {"text": ["Ben", "Ben listens"], "answer_start": [11, 11]},
    },
    "messages": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello <|im_end|>"},
            {"role": "assistant", "content": "Hi.", "train": False},
            {"role": "user", "content": " 2+2? "},
            {"role": "assistant", "content": "4"},
        ]
    },
    "tools": {
        "messages": [
            {"role": "user", "content": "Rain?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"type": "function", "function": {"name": "sky", "arguments": '{"at": "noon"}'}}],
            },
            {"role": "tool", "content": "dry"},
            {"role": "assistant", "content": "No."},
        ],
        "tools": [{"type": "function", "function": {"name": "sky", "parameters": {"at": "string"}}}],
    },
    "text": {"text": "Ada sings."},
}

# name -> tokenizer, tokens that generation stops at, settings of build_template
TINY: dict[str, tuple[str, Sequence[str], dict[str, Any]]] = {
    "own ChatML": ("chatml", ["<|im_end|>"], {"kind": "chat"}),
    "own Llama 3": ("llama3", ["<|eot_id|>"], {"kind": "chat"}),
    "llama-3": ("llama3", ["<|eot_id|>"], {"kind": "chat", "chat_template": "llama-3"}),
    "llama-3.1": ("llama3", ["<|eot_id|>"], {"kind": "chat", "chat_template": "llama-3.1"}),
    "nemotron-nano, reasoning off": (
        "llama3", ["<|eot_id|>"], {"kind": "chat", "chat_template": "nemotron-nano", "reasoning": "off"},
    ),
    "smollm2": ("chatml", ["<|im_end|>"], {"kind": "chat", "chat_template": "smollm2"}),
    "plain": ("chatml", ["<|im_end|>"], {"kind": "plain"}),
    "plain with beginning of sequence": ("llama3", ["<|eot_id|>"], {"kind": "plain"}),
    "plain fiqa": ("llama3", ["<|eot_id|>"], {"kind": "plain", "prompt": "fiqa"}),
    "plain metamath": ("chatml", ["<|im_end|>"], {"kind": "plain", "prompt": "metamath"}),
    "plain gsm8k": ("chatml", ["<|im_end|>"], {"kind": "plain", "prompt": "gsm8k"}),
    "plain nemo": ("llama3", ["<|eot_id|>"], {"kind": "plain", "prompt": "nemo"}),
}  # fmt: skip
REAL = {
    "llama-3": {"kind": "chat", "chat_template": "llama-3"},
    "llama-3.1": {"kind": "chat", "chat_template": "llama-3.1"},
    "nemotron-nano, reasoning on": {"kind": "chat", "chat_template": "nemotron-nano", "reasoning": "on"},
    "plain fiqa": {"kind": "plain", "prompt": "fiqa"},
    "plain nemo": {"kind": "plain", "prompt": "nemo"},
}
"""Ways of rendering that are kept for the real Llama-3 tokenizer, which stops at <|eot_id|> and <|end_of_text|>."""


def read_row(shape: str) -> Example:
    """The row of this shape as its dataset's reader gives it."""
    row = ROWS[shape]
    reading = FORMATS["messages" if shape == "tools" else shape].read(row)
    return Example(
        id=shape, messages=tuple(reading.messages), task=reading.task, golds=reading.golds, tools=reading.tools,
        origin=shape,
    )  # fmt: skip


def sample(template: templates.Template, example: Example) -> tuple[np.ndarray, np.ndarray]:
    """Ids and taught marks; raises DataError where the template has no form for the row."""
    (rendered,) = templates.render_many(template, [example])
    if isinstance(rendered, DataError):
        raise rendered
    return templates.assemble(template, rendered, templates.encode(template, [rendered])[0])


def describe(template: templates.Template, example: Example, *, has_text: bool) -> dict[str, Any]:
    """What the snapshot holds of one row: text or digest, what is taught, its first and last token, BOS count."""
    try:
        ids, taught = sample(template, example)
    except DataError as error:
        return {"refused": error.what}
    tokenizer = template.tokenizer
    where = np.flatnonzero(taught)
    digest = hashlib.sha256(np.concatenate([ids, taught]).astype("<i4").tobytes()).hexdigest()[:16]
    return {
        "whole": tokenizer.decode(ids.tolist()) if has_text else f"sha256 {digest}",
        "taught": tokenizer.decode(ids[taught].tolist()),
        "first_taught": tokenizer.decode([int(ids[where[0]])]),
        "last_taught": tokenizer.decode([int(ids[where[-1]])]),
        "num_tokens": len(ids),
        "num_taught": int(taught.sum()),
        "num_bos": int((ids == tokenizer.bos_token_id).sum()),
    }


def tiny_template(name: str) -> templates.Template:
    tokenizer_name, ends, settings = TINY[name]
    tokenizer = {"chatml": tiny_tokenizers.build_chatml, "llama3": tiny_tokenizers.build_llama3}[tokenizer_name]()
    return templates.build_template(tokenizer, end_ids=tokenizer.convert_tokens_to_ids(list(ends)), **settings)


def real_template(name: str, tokenizer: Any) -> templates.Template:
    ends = tokenizer.convert_tokens_to_ids(["<|eot_id|>", "<|end_of_text|>"])
    return templates.build_template(tokenizer, end_ids=ends, **REAL[name])


def snapshot(template: templates.Template, *, has_text: bool) -> dict[str, dict[str, Any]]:
    """Every shape of row under one template."""
    return {shape: describe(template, read_row(shape), has_text=has_text) for shape in ROWS}


def main() -> None:
    """Write tests/golden/masks.json; needs the package index for the real Llama-3 tokenizer."""
    import llama_models_reference as reference

    llama3 = reference.build_llama3_tokenizer(reference.fetch_or_skip())
    golden = {
        "tiny tokenizers": {name: snapshot(tiny_template(name), has_text=True) for name in TINY},
        "real Llama-3 tokenizer": {name: snapshot(real_template(name, llama3), has_text=False) for name in REAL},
    }
    GOLDEN.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
