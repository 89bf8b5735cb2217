"""`python -m flows`: the same as the command `convoy`."""

from __future__ import annotations

import sys

from flows.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
