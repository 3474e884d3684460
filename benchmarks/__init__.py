"""Our speed and memory beside our peers': registered cases and one runner, ``run.py``."""
