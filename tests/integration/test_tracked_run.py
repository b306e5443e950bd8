"""A run that is killed and continued under Weights & Biases, MLflow and Trackio at once: the same curve in each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

READ = Path(__file__).parents[1] / "support" / "real_tracker.py"
LIBRARIES = ("wandb", "mlflow", "trackio")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_run_that_was_killed_and_continued_is_one_run_in_every_tracker(workplace, monkeypatch):
    for package in (*LIBRARIES, "sqlalchemy", "alembic"):
        pytest.importorskip(package, reason="mlflow is not installed, or wandb, or trackio")
    monkeypatch.setattr("workplace.TIMEOUT_SECONDS", 900)
    workplace.environment |= {"WANDB_API_KEY": "CANARY" * 7, "HF_TOKEN": "hf_CANARYCANARY"}
    workplace.write_recipe(
        tracking=list(LIBRARIES), tracked_as={"project": "p", "tags": ["mine"]}, train={"save_every": 4}
    )
    workplace.kill_at(6)
    said = workplace.train()
    assert "training from step 4" in said and "switched off" not in said, said
    run = workplace.folder / "run"
    for library in LIBRARIES:
        read = subprocess.run(
            [sys.executable, str(READ), library, str(run), "--read"],
            env=workplace.environment, capture_output=True, text=True,
        )  # fmt: skip
        assert read.returncode == 0, read.stderr
        [curve] = json.loads(read.stdout)["curves"]["train/loss"].values()
        assert curve == [[step["step"], step["loss"]] for step in workplace.steps()], library
    logs = [path for path in (run / "logs").rglob("*") if path.is_file()]
    assert logs and not [path for path in logs if b"CANARY" in path.read_bytes()]
