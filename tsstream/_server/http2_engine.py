"""h2, with the settings of a Config, and with some of its answers made right."""

from __future__ import annotations

import struct
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import h2.stream
from hypercorn.config import Config

DATA = struct.Struct(">BHBBI")  # the header of such a frame (RFC 9113 6.1)
GOAWAY = struct.Struct(">BHBBIII")  # RFC 9113 6.8, as one frame without debug data
TABLE_SIZE = 4096  # bytes: what our header compression may remember, whatever the client offers

Codes = h2.errors.ErrorCodes
Setting = h2.settings.SettingCodes


class ProtocolFault(Exception):
    """The client has broken the protocol in a way that ends the connection.

    Attributes:
      farewell: what is still to be sent; a GOAWAY is its end.
    """

    def __init__(self, text: str, farewell: bytes) -> None:
        super().__init__(text)
        self.farewell = farewell


class Engine(h2.connection.H2Connection):
    """h2's connection, on the server's side.

    Differences to h2 4.4: too many streams, and malformed requests, are errors of the stream (RFC
    9113 5.1.2, 8.1.1), and found by the driver. A frame that is too long is one as soon as its
    header is there, not when up to 16 MB of it are. Errors of header compression and of frame sizes
    are called by their names. A client's GOAWAY does not end what it still waits for. DATA that was
    under way when we reset its stream is dropped without a word (RFC 9113 5.1).
    """

    MAX_CLOSED_STREAMS = 2**12  # whose end is remembered; h2's own 65,536 are megabytes

    def __init__(self, config: Config) -> None:
        super().__init__(
            h2.config.H2Configuration(
                client_side=False,
                header_encoding=None,
                validate_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                Setting.MAX_CONCURRENT_STREAMS: config.h2_max_concurrent_streams,
                Setting.MAX_FRAME_SIZE: config.h2_max_inbound_frame_size,
                Setting.MAX_HEADER_LIST_SIZE: config.h2_max_header_list_size,
                Setting.ENABLE_CONNECT_PROTOCOL: 1,
            },
        )
        self.max_inbound_frame_size = config.h2_max_inbound_frame_size
        # Up to twice the limit is decoded, to be answered 431; beyond it h2 gives up.
        self.decoder.max_header_list_size = 2 * config.h2_max_header_list_size

    @property
    def open_inbound_streams(self) -> int:
        """None, for h2: the count is the driver's. Asked at each new stream, h2 drops the old."""
        _ = super().open_inbound_streams
        return 0

    def take(self, data: bytes) -> list[h2.events.Event]:
        """Take what the client has sent.

        Raises:
          ProtocolFault: the connection is over.
        """
        try:
            events = self.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            farewell = self.data_to_send().removesuffix(self._make_goaway(error.error_code))
            farewell += self._make_goaway(_code(error))
            raise ProtocolFault(f"{type(error).__name__}: {error}", farewell) from error
        length = int.from_bytes(self.incoming_buffer._data[:3], "big")
        if length > self.max_inbound_frame_size:
            raise ProtocolFault(f"a frame of {length} bytes", self.farewell(Codes.FRAME_SIZE_ERROR))
        if self.encoder.header_table_size > TABLE_SIZE:
            self.encoder.header_table_size = TABLE_SIZE
        return events

    def count_data(self, stream_id: int, size: int) -> bytes:
        """Give the header of a DATA frame of *size* bytes, which are to be sent at once.

        This is what ``send_data()`` does for a stream that is open, but for the copies.
        """
        self.outbound_flow_control_window -= size
        self.streams[stream_id].outbound_flow_control_window -= size
        return DATA.pack(size >> 16, size & 0xFFFF, 0, 0, stream_id)

    def farewell(self, code: Codes) -> bytes:
        """Give what is still to be sent, and a GOAWAY.

        Not with h2's help, as it would not hear or say anything any more.
        """
        return self.data_to_send() + self._make_goaway(code)

    def _make_goaway(self, code: Codes | int) -> bytes:
        return GOAWAY.pack(0, 8, 7, 0, 0, self.highest_inbound_stream_id, code)

    def _receive_goaway_frame(self, frame: Any) -> tuple[list[Any], list[h2.events.Event]]:
        event = h2.events.ConnectionTerminated()
        event.error_code, event.last_stream_id = frame.error_code, frame.last_stream_id
        return [], [event]

    def _handle_data_on_closed_stream(
        self, events: Any, exc: h2.exceptions.StreamClosedError, frame: Any
    ) -> tuple[list[Any], list[h2.events.Event]]:
        closed_by = self._stream_closed_by(frame.stream_id)
        frames, events = super()._handle_data_on_closed_stream(events, exc, frame)
        # The error that makes h2 reset the stream comes with an event, later ones do not.
        if closed_by is h2.stream.StreamClosedBy.SEND_RST_STREAM and not exc._events:
            frames = [credit for credit in frames if credit.stream_id == 0]
        return frames, events


def _code(error: h2.exceptions.ProtocolError) -> Codes:
    """Give the code of RFC 9113 for what h2 calls a PROTOCOL_ERROR."""
    cause = error.__cause__
    if type(cause).__module__.startswith("hpack") and "Oversized" not in str(error):
        return Codes.COMPRESSION_ERROR
    if "SETTINGS ack" in str(cause):
        return Codes.FRAME_SIZE_ERROR
    return Codes(error.error_code)
