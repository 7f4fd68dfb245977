"""Fuzz the guarded server, from the command line or in :mod:`test_fuzz`.

Valid conversations in HTTP/1.1, HTTP/2 and WebSocket are mutated: bits flipped, bytes inserted and
deleted, lines and frames duplicated, swapped, repeated and lost, cut anew at random places, and the
client leaves at random with a FIN or a reset. Whatever comes of it, the server has to answer in the
protocol, close the connection of a client that has left, serve the innocent, and log no alarm::

    python -m tests.server.fuzz --inputs 100000 --seed 7
    python -m tests.server.fuzz --inputs 100000 --seed 7 --half-close
    python -m tests.server.fuzz --replay 7:4711

The last line shows an input that the first has found, and runs it alone. The test suite runs 2,000
inputs without ``--half-close``, and 2,000 with it; ``TSSTREAM_FUZZ_INPUTS`` is another number, and
``TSSTREAM_FUZZ_SEED`` another seed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import trio


def main() -> None:
    """Run the command; the exit code is 1 if there were faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.server.fuzz", description="Fuzz.")
    parser.add_argument("--inputs", type=int, default=2000, help="how many (2000)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other inputs (0)")
    parser.add_argument("--half-close", action="store_true", help="as serve(half_close=True)")
    parser.add_argument("--replay", metavar="SEED:INDEX", help="run this one alone")
    args = parser.parse_args()
    # Modules of tests find each other as pytest lets them.
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    from fuzzing import fuzz
    from mutations import make_input

    if args.replay:
        seed, index = map(int, args.replay.split(":"))
        print(make_input(seed, index))  # noqa: T201
        faults = trio.run(fuzz, seed, range(index, index + 1), args.half_close)
    else:
        faults = trio.run(fuzz, args.seed, range(args.inputs), args.half_close)
    print("\n".join(faults) or "no faults")  # noqa: T201
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
