"""`python -m whet` is the command `whet`."""

import sys
from pathlib import Path

# `-m` looks for modules in the folder of the call first: a file yaml.py beside somebody's recipe would be run
if not sys.flags.safe_path and sys.path[:1] == [str(Path.cwd())]:
    del sys.path[0]

from whet.cli.main import main

if __name__ == "__main__":
    main()
