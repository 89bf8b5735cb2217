"""`convoy`: a thin door to the flows. What a command needs is imported when that command runs."""

from __future__ import annotations

import sys

from flows.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
