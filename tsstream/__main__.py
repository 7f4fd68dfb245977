"""``python -m tsstream`` is the ``tsstream`` command."""

from __future__ import annotations

from tsstream._cli import main

if __name__ == "__main__":
    raise SystemExit(main())
