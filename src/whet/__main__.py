"""`python -m whet` is the command `whet`."""

import os
import sys

# `-m` looks for modules in the folder of the call first: a file yaml.py beside somebody's recipe would be run
try:
    called_in = os.getcwd()  # noqa: PTH109 - a folder that has been removed is told by the command line
except FileNotFoundError:
    called_in = ""
if not sys.flags.safe_path and sys.path[:1] == [called_in]:
    del sys.path[0]

from whet.cli.main import main

if __name__ == "__main__":
    main()
