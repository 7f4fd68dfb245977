"""From a seed and an index to one input of the fuzzer, always the same one."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

import attrs
from conversation import HangUp, Step
from frames_h2 import HEADER_SIZE, Setting, frame, settings
from frames_ws import ws_frame
from fuzz_talks import TALKS, Kind, Talk

MAX_UNITS = 400
MAX_SIZE = 300_000  # bytes: more would only be slow
MAX_MUTATIONS = 5
INTERESTING = [b"\0", b"\xff", b"\r\n", b"\n", b" ", b":", b"-1", b"0", b"%", b"\x80", b"\x7f" * 4]
SIZES = [0, 1, 125, 126, 127, 128, 255, 256, 16_384, 16_385, 65_535, 65_536, 2**24 - 1, 2**31 - 1]

Units = list[bytes]
Mutation = Callable[[Random, Units], None]


@attrs.frozen
class Yields:
    """A step: let others run some times."""

    count: int


@attrs.frozen
class Hear:
    """A step: listen until something comes, but not for long."""


@attrs.frozen
class FuzzInput:
    """One input.

    Attributes:
      label: ``"SEED:INDEX"``, with which it can be made again.
      story: what was done to which conversation.
      kind: the protocol.
      steps: what the client does.
      ending: how it leaves.
    """

    label: str
    story: str
    kind: Kind
    steps: tuple[Step | Yields | Hear, ...]
    ending: HangUp

    @property
    def endless(self) -> bool:
        """There may be a response that only the client's leave ends, and not its FIN."""
        return b"/tick" in b"".join(step for step in self.steps if isinstance(step, bytes))


def make_input(seed: int, index: int) -> FuzzInput:
    """Make the input number *index* of *seed*."""
    random = Random(f"{seed}:{index}")
    talk = random.choice(TALKS)
    units = list(talk.units)
    done = []
    for _ in range(random.randint(0, MAX_MUTATIONS)):
        mutation = random.choice(MUTATIONS[talk.kind])
        if units and len(units) <= MAX_UNITS:
            mutation(random, units)
            done.append(mutation.__name__)
    steps = _deliver(random, talk, units)
    if random.random() < 0.2:
        del steps[random.randint(0, len(steps)) :]
        done.append("leave early")
    ending = random.choice([HangUp.FIN, HangUp.FIN, HangUp.RESET])
    if random.random() < 0.6:
        steps.append(Hear())
    story = f"{talk.kind} {talk.name!r}: {', '.join(done) or 'unchanged'}, {ending.name}"
    return FuzzInput(f"{seed}:{index}", story, talk.kind, tuple(steps), ending)


def _deliver(random: Random, talk: Talk, units: Units) -> list[Step | Yields | Hear]:
    """Cut the bytes anew, with pauses between the pieces."""
    if random.random() < 0.5:  # unit by unit, which may be single lines
        pieces = units
    else:
        whole = b"".join(units)
        count = len(whole) if len(whole) < 300 and random.random() < 0.1 else random.randint(0, 12)
        cuts = sorted(random.randint(0, len(whole)) for _ in range(count))
        pieces = [whole[i:j] for i, j in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    steps: list[Step | Yields | Hear] = []
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_SIZE:
            break
        steps.append(piece)
        if piece == b"\r\n" and talk.kind == "websocket" and random.random() < 0.7:
            steps.append(Hear())  # the end of the handshake
        elif random.random() < 0.4:
            steps.append(Yields(random.randint(1, 8)))
        elif random.random() < 0.05:
            steps.append(Hear())
    return steps


# Mutations of any protocol.


def flip_bits(random: Random, units: Units) -> None:
    i = _pick(random, units)
    changed = bytearray(units[i])
    for _ in range(random.choice([1, 1, 1, 2, 8])):
        if changed:
            changed[random.randrange(min(len(changed), 2000))] ^= 1 << random.randrange(8)
    units[i] = bytes(changed)


def insert_bytes(random: Random, units: Units) -> None:
    i = _pick(random, units)
    at = random.randint(0, len(units[i]))
    units[i] = units[i][:at] + _some_bytes(random) + units[i][at:]


def replace_bytes(random: Random, units: Units) -> None:
    i = _pick(random, units)
    at = random.randint(0, len(units[i]))
    some = _some_bytes(random)
    units[i] = units[i][:at] + some + units[i][at + len(some) :]


def delete_bytes(random: Random, units: Units) -> None:
    i = _pick(random, units)
    at = random.randint(0, len(units[i]))
    units[i] = units[i][:at] + units[i][at + random.choice([1, 1, 2, 4, 16]) :]


def truncate(random: Random, units: Units) -> None:
    i = _pick(random, units)
    units[i] = units[i][: random.randint(0, len(units[i]))]
    if random.random() < 0.5:
        del units[i + 1 :]


def duplicate(random: Random, units: Units) -> None:
    i = _pick(random, units)
    units.insert(random.randint(i, len(units)), units[i])


def swap(random: Random, units: Units) -> None:
    i, j = _pick(random, units), _pick(random, units)
    units[i], units[j] = units[j], units[i]


def lose(random: Random, units: Units) -> None:
    del units[_pick(random, units)]


def repeat(random: Random, units: Units) -> None:
    i = _pick(random, units)
    times = random.choice([2, 3, 10, 100, 300])
    if len(units[i]) * times < MAX_SIZE:
        units[i] = units[i] * times


def splice(random: Random, units: Units) -> None:
    """Say something of another conversation, maybe in another protocol."""
    other = random.choice(TALKS).units
    start = random.randrange(len(other))
    units[(at := _pick(random, units)) : at] = other[start : start + random.choice([1, 1, 3, 99])]


# Mutations that know the protocol, and keep the rest of the message right.


def change_number(random: Random, units: Units) -> None:
    """Write another number into a line that has one."""
    numbered = [i for i, unit in enumerate(units) if any(48 <= byte <= 57 for byte in unit[:200])]
    if numbered:
        i = random.choice(numbered)
        digit = next(k for k, byte in enumerate(units[i]) if 48 <= byte <= 57)
        number = str(random.choice(SIZES)).encode()
        units[i] = units[i][:digit] + number + units[i][digit + random.randint(0, 2) :]


def change_frame_head(random: Random, units: Units) -> None:
    """Change the type, the flags or the stream of an HTTP/2 frame."""
    i = _pick(random, units)
    if len(units[i]) >= HEADER_SIZE:
        kind, flags, stream = struct.unpack(">BBI", units[i][3:HEADER_SIZE])
        field = random.randrange(3)
        kind = random.randrange(12) if field == 0 else kind
        flags = random.randrange(256) if field == 1 else flags
        stream = random.choice([0, 1, 2, 3, 5, 7, 2**31 - 1, 2**31]) if field == 2 else stream
        units[i] = units[i][:3] + struct.pack(">BBI", kind, flags, stream) + units[i][HEADER_SIZE:]


def change_frame_payload(random: Random, units: Units) -> None:
    """Change what is in an HTTP/2 frame, and keep its length right."""
    i = _pick(random, units)
    if len(units[i]) >= HEADER_SIZE:
        payload = [units[i][HEADER_SIZE:]]
        random.choice([flip_bits, insert_bytes, replace_bytes, delete_bytes, truncate])(
            random, payload
        )
        units[i] = len(payload[0]).to_bytes(3, "big") + units[i][3:HEADER_SIZE] + payload[0]


def add_frame(random: Random, units: Units) -> None:
    """Put a frame of HTTP/2 in between that is right in itself, more or less."""
    kind = random.randrange(11)
    length = {2: 5, 3: 4, 6: 8, 7: 8, 8: 4}.get(kind, random.choice([0, 1, 6, 12, 100]))
    payload = random.choice([bytes(length), random.randbytes(length), b"\0" * 3 + b"\1" * length])
    stream = random.choice([0, 1, 1, 3, 5, 9])
    made = frame(kind, payload[:length], stream=stream, flags=random.choice([0, 1, 4, 5, 8, 0x20]))
    if kind == 4:
        made = settings((random.choice(list(Setting)), random.choice(SIZES)))
    units.insert(random.randint(1, len(units)), made)


def add_ws_frame(random: Random, units: Units) -> None:
    """Put a frame of a WebSocket in between, right or wrong."""
    payload = random.randbytes(random.choice([0, 1, 2, 10, 125, 126, 300]))
    made = ws_frame(
        random.choice([0, 1, 2, 8, 9, 10, random.randrange(16)]),
        payload,
        fin=random.random() < 0.7,
        rsv=random.choice([0, 0, 0, 0, 1, 2, 4]),
        masked=random.random() < 0.9,
        length=random.choice([None, None, None, None, random.choice(SIZES)]),
    )
    units.insert(random.randint(min(len(units), 7), len(units)), made)


def _pick(random: Random, units: Units) -> int:
    # More often towards the end: the beginning is the preface, without which nothing else counts.
    return max(random.randrange(len(units)), random.randrange(len(units)))


def _some_bytes(random: Random) -> bytes:
    if random.random() < 0.6:
        return random.choice(INTERESTING)
    return random.randbytes(random.choice([1, 2, 4, 20, 200]))


ANY: list[Mutation] = [
    flip_bits,
    insert_bytes,
    replace_bytes,
    delete_bytes,
    truncate,
    duplicate,
    swap,
    lose,
    repeat,
    splice,
]
FRAMES: list[Mutation] = [change_frame_head, change_frame_payload, add_frame]
MUTATIONS: dict[Kind, list[Mutation]] = {
    "http1": [*ANY, *[change_number] * 4],
    "http2": [*ANY, *FRAMES * 4],
    "websocket": [*ANY, *[add_ws_frame] * 10],
}
