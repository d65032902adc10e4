"""``python -m sb3_ppo_plus`` is ``ppo-plus``."""

from __future__ import annotations

import sys

from sb3_ppo_plus.cli import main

if __name__ == "__main__":
    sys.exit(main())
