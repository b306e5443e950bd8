"""The notebooks, run with few steps in a fresh folder by nbclient."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").glob("*.ipynb"))
FEW = {"STEPS": "2", "TRAIN_ROWS": "32", "HELD_OUT_ROWS": "4", "NEW_TOKENS": "12"}
"""the variables at the head of every notebook, made small"""
CELL_SECONDS = 3600


def run_notebook(name: str, folder: Path) -> str:
    """Run a copy of the notebook in `folder`; empty, or what failed with the end of what its cell said."""
    try:
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    except ImportError as error:
        return f"{error}: pip install 'whet[notebooks]'"
    for path in (ROOT / "notebooks").iterdir():
        if path.is_file():
            shutil.copy(path, folder / path.name)
    notebook = nbformat.read(folder / Path(name).name, as_version=4)
    # `whet` in a cell is the one beside this Python, whatever is activated
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    os.environ.update(FEW | {"PORT": str(free_port()), "NO_COLOR": "1", "HF_HUB_OFFLINE": "1", "PATH": path})
    client = NotebookClient(
        notebook, timeout=CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return str(error)[-4000:]
    return ""


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
