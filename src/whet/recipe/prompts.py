"""Texts around a question for `template: plain`, by name: those of the systems whose results are to be compared with.

`{question}` is where the row's question goes. Space that ends a prompt moves to the answer when tokens are made, so
that the answer's first token is the one of running text.
"""

from __future__ import annotations

QUESTION = "{question}"

PROMPTS: dict[str, str] = {
    "fiqa": "You are a helpful financial assistant. Provide comprehensive, detailed answers to financial questions. "
    "Include relevant context, examples, and explanations when appropriate.\n\n"
    "Question: {question}\n\nAnswer: ",
    "metamath": "Below is an instruction that describes a task. Write a response that appropriately completes the "
    "request.\n\n### Instruction:\n{question}\n\n### Response:\n",
    "gsm8k": "Below is a math problem. Solve it step by step and provide the final answer.\n\n"
    "### Question:\n{question}\n\n### Answer:\n",
    "nemo": "{question} ",
}


def prompt_text(prompt: str) -> str:
    """The text that a recipe's `data.prompt` means: a named one, or itself."""
    return PROMPTS.get(prompt, prompt)
