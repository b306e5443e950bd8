"""whet: fine-tune Llama-family language models and prove whether the tuning helped."""

__version__ = "0.1.0"
