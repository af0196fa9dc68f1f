"""`python -m orchestrator`: the command `orchestrate`, where its script is not on the path."""

import sys

from orchestrator.cli import main

if __name__ == "__main__":
    sys.exit(main())
