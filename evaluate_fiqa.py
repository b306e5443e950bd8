"""`python3 evaluate_fiqa.py [--peft-model FOLDER|none] [--max-samples N] [--compare-base] ...`: the FiQA project's
evaluation, with its metrics and files.

Other than the script of this name elsewhere it asks greedily, scores all that stands behind the prompt up to the end
that the model writes (never what follows a second "Answer:"), and says how sure the difference is.
"""

from __future__ import annotations

from pathlib import Path

from whet.cli.fiqa_evaluation import main

if __name__ == "__main__":
    main(Path(__file__).parent / "recipes" / "nemotron-nano-8b" / "fiqa_lora.yaml")
