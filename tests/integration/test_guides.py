"""The commands of the guides, as they type them, on a tiny model: `train.py --config` and `train_fiqa_peft.py`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "configs" / "Llama-3.1" / "llama3.1_8b_gsm8k.yaml"


def guide_overrides(workplace) -> list[str]:
    return [
        f"model.id={workplace.model}", "model.dtype=float32", f"data.train.0.source={workplace.rows}",
        "data.validation=[]", "evaluate=[]", "train.best_metric=eval/loss", "train.final=last",
        f"output={workplace.folder / 'run'}", "train.device=cpu",
        "train.save_every=1", "tracking=[]",
    ]  # fmt: skip


@pytest.mark.parametrize("num_processes", [1, 2])
def test_the_guide_s_file_trains_with_its_own_batch_and_resumes(workplace, num_processes):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29631"]
    program = (*(launcher if num_processes == 2 else []), str(ROOT / "train.py"))
    command = ["--config", str(GUIDE), *guide_overrides(workplace)]
    process = workplace.start(*command, program=program)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert said.count("read as lora-ns") == 1
    assert "peft.init_lora_weights: pissa -> adapter.init = pissa" in said
    assert "trainer.refactor_mode: balanced -> callbacks.0.mode = exact" in said
    plan = json.loads((workplace.folder / "run" / "run_plan.json").read_text(encoding="utf-8"))
    assert (plan["global_batch"], plan["world_size"], plan["total_steps"]) == (64, num_processes, 5)
    if num_processes == 1:
        checkpoint = str(workplace.folder / "run" / "checkpoint-3")
        process = workplace.start(*command, "--resume_from_checkpoint", checkpoint, program=program)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert "continuing after step 3 of 5" in said


def fiqa_rows(folder: Path) -> dict[str, str]:
    """Rows in FiQA's schema, one file a split."""
    files = {}
    for number, split in enumerate(("train", "validation", "test")):
        rows = [
            {
                "question": f"Is share {split} {n} worth {n * n} dollars?",
                "ground_truths": [f"It is worth {n + number}.", "No."],
            }
            for n in range(20 if split == "train" else 4)
        ]
        files[split] = str(folder / f"{split}.jsonl")
        Path(files[split]).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return files


def real_fiqa() -> tuple[str, dict[str, str]]:
    """A real pretrained model and stretches of real rows."""
    folder = os.environ.get("WHET_TEST_DATA")
    if not folder:
        pytest.skip("WHET_TEST_DATA is not set: no real model and rows")
    file = str(Path(folder) / "fiqa" / "fiqa_main_schema_333.jsonl")
    return str(Path(folder) / "stories260k" / "hf"), dict.fromkeys(("train", "validation", "test"), file)


@pytest.mark.parametrize("is_real", [False, True], ids=["tiny", "real"])
def test_the_fiqa_script_does_its_seven_steps_and_leaves_its_files(workplace, is_real):
    model, files = real_fiqa() if is_real else (str(workplace.model), fiqa_rows(workplace.folder))
    splits = ("train[:40]", "train[40:50]", "train[50:55]") if is_real else ("train", "validation", "test")
    command = [
        f"model.id={model}", "model.dtype=float32", "train.device=cpu", "train.max_steps=3", "train.save_every=2",
        "train.eval_every=2", "data.max_length=1024", "data.max_dropped=100%",
        f"data.train.0.source={files['train']}", f"data.train.0.split={splits[0]}",
        f"data.validation.0.source={files['validation']}", f"data.validation.0.split={splits[1]}",
        f"evaluate.0.source.source={files['test']}", f"evaluate.0.source.split={splits[2]}",
    ]  # fmt: skip
    program = (str(ROOT / "train_fiqa_peft.py"),)
    for _ in range(2):  # the second time nothing is trained, and the same files are there
        process = workplace.start(*command, program=program)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert [f"[{n}/7]" in said for n in range(1, 8)] == [True] * 7
    assert "was finished before" in said
    check_files(workplace.folder, num_rows=(40, 10, 5) if is_real else (20, 4, 4))


def check_files(folder: Path, num_rows: tuple[int, ...]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for name, num in zip(("train", "val", "test"), num_rows, strict=True):
        lines = (folder / "data" / f"{name}_processed.json").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        assert len(rows) == num
        for row in rows:
            assert set(row) == {"question", "text", "answer"}
            assert row["text"].startswith("You are a helpful financial assistant. Provide comprehensive, detailed ")
            assert f"\n\nQuestion: {row['question']}\n\nAnswer: {row['answer']}" in row["text"]
    checkpoints = folder / "checkpoints"
    assert {"checkpoint-2", "checkpoint-3", "final_model", "training_config.json"} <= {
        path.name for path in checkpoints.iterdir()
    }
    config = json.loads((checkpoints / "training_config.json").read_text(encoding="utf-8"))
    assert (config["total_steps"], config["lora_r"], config["effective_batch_size"]) == (3, 8, 16)
    assert list((folder / "outputs" / "logs").glob("events.out.tfevents.*"))
    base = AutoModelForCausalLM.from_pretrained(config["model_name"], trust_remote_code=False, local_files_only=True)
    tuned = PeftModel.from_pretrained(base, checkpoints / "final_model")
    assert tuned.peft_config["default"].r == 8
    assert len(AutoTokenizer.from_pretrained(checkpoints / "final_model", trust_remote_code=False)) > 0
