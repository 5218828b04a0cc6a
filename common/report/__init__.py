"""A page about prediction files: `python -m common.report`. Diagnosis, charts, page."""
