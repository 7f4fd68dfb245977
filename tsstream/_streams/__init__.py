"""Channels and the tasks that fill them: Trio, and nothing of HTTP."""
