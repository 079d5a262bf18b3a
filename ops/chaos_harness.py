#!/usr/bin/env python3
"""Kills workers and the broker of a real Kafka again and again, and shows that nothing came of it: --help."""

import sys
from pathlib import Path

# In place of this folder, whose `kafka` would hide the client of that name.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ops.harness.chaos import main

if __name__ == "__main__":
    sys.exit(main())
