"""An interpreter that plays lm-eval: says which version is installed, and writes the files that lm-eval 0.4.13 writes.

How likely a row is right depends on the folder that it is asked to load, so base and tuned differ.
"""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

_TEXT = """#!{python}
import hashlib, json, pathlib, sys

HERE = pathlib.Path(__file__).parent
BEHAVIOUR = json.loads((HERE / "behaviour.json").read_text())

if sys.argv[1] == "-c":
    print(json.dumps(BEHAVIOUR["versions"]))
    sys.exit(0)
assert sys.argv[1:5] == ["-m", "lm_eval", "run", "--config"], sys.argv
config = json.loads(pathlib.Path(sys.argv[5]).read_text())
with (HERE / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps(config) + "\\n")
sys.stderr.write("Running requests:  50%|#####     | 2/4 [00:00<00:00]\\r")
if BEHAVIOUR.get("fails"):
    sys.exit(BEHAVIOUR["fails"])
model = pathlib.Path(config["model_args"]["pretrained"])
assert (model / "config.json").is_file() and list(model.glob("*.safetensors")), "no model folder"
weights = hashlib.sha256((model / "model.safetensors").read_bytes()).digest()
[task] = config["tasks"]
num_rows = config.get("limit", 20)
order = list(range(num_rows))[:: -1 if weights[0] % 2 else 1]
rows = []
for i in order:
    score = float(weights[i] > 100)
    asked = {{"doc_hash": str(i), "prompt_hash": f"{{i}} {{config.get('apply_chat_template')}}", "target_hash": str(i)}}
    asked["prompt_hash"] += str(weights[:2]) if BEHAVIOUR.get("asks_otherwise") else ""
    rows.append({{"doc_id": i, "filter": "strict-match", "metrics": ["exact_match"], "exact_match": score, **asked}})
    rows.append({{"doc_id": i, "filter": "none", "metrics": ["perplexity"], "perplexity": -weights[i] / 10, **asked}})
mean = sum(row.get("exact_match", 0) for row in rows) / num_rows
out = pathlib.Path(config["output_path"]) / "model__name"
out.mkdir(parents=True)
lines = "".join(json.dumps(row) + "\\n" for row in rows)
(out / f"samples_{{task}}_2026-01-01T00-00-00.000001.jsonl").write_text(lines)
results = {{
    "alias": task, "sample_len": num_rows, "exact_match,strict-match": mean, "exact_match_stderr,strict-match": 0.1,
    "perplexity,none": 7.5, "perplexity_stderr,none": "N/A",
}}
document = {{
    "results": {{task: results}}, "group_subtasks": {{}},
    "n-samples": {{task: {{"original": 20, "effective": num_rows}}}},
}}
(out / "results_2026-01-01T00-00-00.000001.json").write_text(BEHAVIOUR.get("document") or json.dumps(document))
"""


def write_fake(folder: Path, **behaviour: object) -> str:
    """Path of the interpreter; `fails`: exit message, `document`: text of the results file."""
    folder.mkdir(exist_ok=True)
    fields = {"versions": {"lm_eval": "0.4.13", "transformers": "5.23.0", "torch": "2.13.0"}, **behaviour}
    (folder / "behaviour.json").write_text(json.dumps(fields), encoding="utf-8")
    path = folder / "python"
    path.write_text(_TEXT.format(python=sys.executable), encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def calls(folder: Path) -> list[dict]:
    """The configuration of every run so far."""
    path = folder / "calls.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
