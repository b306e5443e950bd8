"""`python3 train_fiqa_peft.py [--recipe RECIPE] [KEY=VALUE]...`: the FiQA project's seven steps, with its folders.

Without arguments recipes/nemotron-nano-8b/fiqa_lora.yaml. On a laptop: `python3 train_fiqa_peft.py --recipe
recipes/smollm2-135m/fiqa.yaml`; its header says how to name local rows.
"""

from __future__ import annotations

from pathlib import Path

from whet.cli.fiqa_project import main

if __name__ == "__main__":
    main(Path(__file__).parent / "recipes" / "nemotron-nano-8b" / "fiqa_lora.yaml")
