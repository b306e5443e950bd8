"""Messages -> token ids with taught marks: the one renderer for training, evaluation, chat and serving.

`template_for` says how a recipe renders for a tokenizer, `render_many` writes conversations as text (`render.py`: by a
chat template that runs in a limited child process, or plain prompt and answer), `encode` and `assemble` make
token ids with taught marks of it (`encode.py`), `prompts` the ids that generation is prompted with.
"""

from whet.data.templates.draft import Conversation
from whet.data.templates.encode import (
    assemble,
    encode,
    finish_prompt,
    prompt_ids,
    prompts,
)
from whet.data.templates.families import FAMILIES, family_text
from whet.data.templates.render import render, render_conversations, render_many
from whet.data.templates.template import Rendered, Template, build_template, end_ids_for, template_for

__all__ = [
    "FAMILIES",
    "Conversation",
    "Rendered",
    "Template",
    "assemble",
    "build_template",
    "encode",
    "end_ids_for",
    "family_text",
    "finish_prompt",
    "prompt_ids",
    "prompts",
    "render",
    "render_conversations",
    "render_many",
    "template_for",
]
