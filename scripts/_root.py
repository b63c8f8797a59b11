"""Puts the repository first on the path of modules; a program imports this before seqarch."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
