#!/usr/bin/env python3
"""Kills `streamlearn run` again and again and shows that nothing came of it. `--help` says how."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ops.harness.trial import main

if __name__ == "__main__":
    sys.exit(main())
