"""`python -m isorl`: the same as the command `isorl`, which looks for no modules in the current folder."""

import os
import sys

if not sys.flags.safe_path and os.path.abspath(sys.path[0]) == os.getcwd():
    del sys.path[0]

from isorl.command import main

main()
