"""`python train.py --config RECIPE [--resume_from_checkpoint [PATH]] [KEY=VALUE]...` is `whet train RECIPE ...`.

For launch scripts written for Hugging Face trainers. With torchrun: `torchrun --nproc-per-node 2 train.py --config R`.
"""

from __future__ import annotations

import argparse
import sys

from whet.cli.main import main


def whet_arguments(arguments: list[str]) -> list[str]:
    """The arguments of the command `whet` that mean the same."""
    parser = argparse.ArgumentParser(prog="train.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True, metavar="RECIPE", help="recipe (YAML)")
    parser.add_argument(
        "--resume_from_checkpoint",
        nargs="?",
        const="auto",
        metavar="PATH",
        help="checkpoint folder; without a PATH the newest of the run",
    )
    parser.add_argument("--local_rank", "--local-rank", help="ignored: the launcher's variables say it")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings to change, such as optim.lr=1e-4")
    known = parser.parse_intermixed_args(arguments)
    asked = known.resume_from_checkpoint
    resume = [] if asked is None else [f"--resume={asked or 'auto'}"]
    return ["train", known.config, *known.overrides, *resume]


if __name__ == "__main__":
    sys.argv[1:] = whet_arguments(sys.argv[1:])
    main()
