"""Standard benchmarks by the tools that define them, each in a process of its own, joined into one shape of results.

lm_eval.py: EleutherAI's lm-evaluation-harness on the base's folder and on an export of the run. nemo_evaluator.py:
NVIDIA's NeMo Evaluator against served models. Both write `<run>/evaluations/<tool>/results.json` (outcome.py).
"""
