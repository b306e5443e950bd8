"""`python validate_config.py --config CONFIG [--checkpoint FOLDER]`: is the file good, and how good is the checkpoint?

CONFIG is a recipe or another tool's YAML, as for train.py. With --checkpoint, base and checkpoint answer the config's
test set, as `whet evaluate` does for a run. `--all` checks every file under configs/. Exit code 0: all good; 2: not.
"""

from __future__ import annotations

from whet.cli.validate_config import main

if __name__ == "__main__":
    main()
