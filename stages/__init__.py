"""The pipeline's stages, one script each, run as ``python -m stages.<name>`` from the project's folder."""

import sys
from pathlib import Path

# This very checkout's library comes first: in a queued or --temp experiment that is the snapshot's, whatever is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
