"""The way of a request, from ASGI scope to final message."""
