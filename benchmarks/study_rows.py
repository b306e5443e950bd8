"""Rows of a study that trains: GSM8K when WHET_TEST_DATA names a folder with them, else generated problems."""

from __future__ import annotations

import argparse
import os
from copy import deepcopy
from pathlib import Path
from typing import Any


def sources(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Training and validation rows, which share none, for `args.steps` of `args.batch` rows."""
    num_rows = 2 * args.steps * args.batch  # some are left out as too long, and no row comes twice
    folder = os.environ.get("WHET_TEST_DATA")
    if folder:
        rows = {"source": str(Path(folder) / "gsm8k" / "train.jsonl"), "format": "gsm8k"}
        return rows | {"split": f"train[:{num_rows}]"}, rows | {"split": f"train[7000:{7000 + args.validation_rows}]"}
    generated = {"source": "reasoning-gym:chain_sum", "options": {"min_terms": 2, "max_terms": 4}}
    # copied: YAML would write one object in two places as an alias, which recipes refuse
    return generated | {"rows": num_rows}, deepcopy(generated) | {"split": "test", "rows": args.validation_rows}
