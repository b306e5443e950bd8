"""Libraries' own progress bars stay off where whet shows its own progress."""

from __future__ import annotations


def quiet_libraries() -> None:
    """Switch off the bars that transformers and huggingface_hub draw while loading; called by commands, not imports."""
    from transformers.utils import logging

    logging.disable_progress_bar()
