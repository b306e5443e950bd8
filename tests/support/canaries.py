"""Secrets that are looked for in everything a test has caused, and a small recipe with an evaluation for its verbs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from workplace import Workplace, write_rows

PROGRAM = Path(__file__).with_name("verbs_under_watch.py")
CANARIES = {
    "HF_TOKEN": "hf_CANARYcanaryTOKEN",
    "WANDB_API_KEY": "CANARYwandbKEY0123",
    "MLFLOW_TRACKING_PASSWORD": "CANARYmlflowPW",
    "AWS_SECRET_ACCESS_KEY": "CANARYawsSECRET",
    "MY_SERVE_TOKEN": "CANARYserveTOKEN0123",
    "OPENAI_API_KEY": "CANARYopenaiKEY",
}
PASSWORD = "CANARYurlPASSWORD"


def leaks(text: str | bytes) -> list[str]:
    """Names of the secrets in a text."""
    content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    found = [name for name, value in CANARIES.items() if value.encode() in content]
    return found + (["password of an address"] if PASSWORD.encode() in content else [])


def leaks_in_files(folder: Path) -> list[str]:
    """`file: name of the secret` of everything below `folder`."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [f"{path.relative_to(folder)}: {name}" for path in files for name in leaks(path.read_bytes())]


class Processes:
    """A thread that reads the command lines of all processes while it is open."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self.num_looks = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._end.wait(0.5):
            self.num_looks += 1
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = path.read_bytes()
                except OSError:
                    continue
                self.found.update(f"command line: {name}" for name in leaks(line))

    def __enter__(self) -> Processes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def write_judged_recipe(place: Workplace, **more: Any) -> None:
    """One epoch with checkpoints, and four held-out rows that base and tuned answer."""
    held_out = place.folder / "data" / "held.jsonl"
    held_out.parent.mkdir(exist_ok=True)
    write_rows(held_out, [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(4)])
    held = {"name": "held", "source": {"source": str(held_out)}, "max_new_tokens": 4, "metrics": ["exact_match"]}
    train = {"epochs": 1, "save_every": 2, "keep": 3, "device": "cpu", "threads": 1}
    place.write_recipe(evaluate=[held], train=train, **more)
