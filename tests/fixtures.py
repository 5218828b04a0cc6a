"""Where the golden fixtures lie: $GOLDEN_DIR, or the ones of the repository. Test files that list their cases read it at import."""

import os
import pathlib

GOLDEN = pathlib.Path(os.environ.get("GOLDEN_DIR") or pathlib.Path(__file__).parent / "golden").absolute()
