"""AIStore's ETL server on tsstream: ``python -m tsstream run examples.etl.upper:app``."""
