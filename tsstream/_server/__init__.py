"""The only place that touches the classes of Hypercorn."""
