"""Programs to read and to run: ``python -m tsstream run examples.hello:app``."""
