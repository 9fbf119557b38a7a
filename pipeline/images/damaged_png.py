"""Mend PNGs that a strict decoder refuses though nearly all of the picture is there.

The damage is often not in the picture: a broken comment, a cut end. The picture's stream is taken
out, its scan lines are counted, and a whole PNG is written around them.
"""

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MIN_SHARE = 0.9
"""Share of the picture's stream that must be whole."""
MAX_STREAM_BYTES = 1 << 26
KEPT_CHUNKS = (b"PLTE", b"tRNS", b"eXIf")
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
BIT_DEPTHS = (1, 2, 4, 8, 16)
WHOLE = ((0, 0, 1, 1),)
ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
"""First column, first row, and steps of the passes of an interlaced image."""
NUM_FILTERS = 5
FILTER_UP = b"\x02"
PIECE = 64
"""Bytes inflated at once: where the stream breaks, the content of such a piece is lost."""


def mend_png(data: bytes) -> bytes | None:
    """A whole PNG of the scan lines that are there, in place of a damaged one.

    Lines that are missing repeat the one above. All but colours, palette, transparency and
    orientation is left out.

    Returns:
        The PNG; None where the bytes are no PNG, less than `MIN_SHARE` of its stream is whole, or
        the result would be the same bytes.
    """
    header = b""
    kept: list[bytes] = []
    stream = bytearray()
    for kind, body, is_whole in _chunks(data):
        if not header:
            if kind != b"IHDR" or not is_whole or len(body) != 13:
                return None
            header = body
        elif kind == b"IDAT":
            stream += body
        elif kind in KEPT_CHUNKS and is_whole and not stream:
            kept.append(_chunk(kind, body))
    lines = _line_lengths(header) if header else []
    expected = sum(lines)
    if not 0 < expected <= MAX_STREAM_BYTES:
        return None
    raw = _inflate(bytes(stream), expected)
    whole, missing = _whole_lines(raw, lines)
    if len(whole) < MIN_SHARE * expected:
        return None
    whole += b"".join(FILTER_UP + bytes(length - 1) for length in missing)
    body = _chunk(b"IDAT", zlib.compress(whole))
    mended = b"".join([SIGNATURE, _chunk(b"IHDR", header), *kept, body, _chunk(b"IEND", b"")])
    return None if mended == data else mended


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Kind, content, and whether the checksum is right; as far as the chunks make sense."""
    at = len(SIGNATURE)
    while data.startswith(SIGNATURE) and at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if not kind.isalpha():
            return
        body = data[at + 8 : at + 8 + length]
        yield kind, body, data[at : at + 12 + length] == _chunk(kind, body)
        at += 12 + length


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _line_lengths(header: bytes) -> list[int]:
    """Bytes of each scan line with its filter byte, in the order of the stream."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if colour not in CHANNELS or depth not in BIT_DEPTHS or width * height > MAX_STREAM_BYTES * 8:
        return []
    lines: list[int] = []
    for x, y, dx, dy in ADAM7 if interlaced else WHOLE:
        columns, rows = max(0, -(-(width - x) // dx)), max(0, -(-(height - y) // dy))
        if columns and rows:
            lines += [1 + -(-columns * CHANNELS[colour] * depth // 8)] * rows
    return lines


def _inflate(stream: bytes, limit: int) -> bytes:
    """As many bytes as can be had, at most `limit`."""
    inflater = zlib.decompressobj()
    raw = bytearray()
    for at in range(0, len(stream), PIECE):
        try:
            raw += inflater.decompress(stream[at : at + PIECE], limit - len(raw))
        except zlib.error:
            break
        if len(raw) >= limit or inflater.eof:
            break
    return bytes(raw)


def _whole_lines(raw: bytes, lines: list[int]) -> tuple[bytes, list[int]]:
    """The first scan lines, as far as they are whole with a known filter; lengths of the rest."""
    at = 0
    for number, length in enumerate(lines):
        if at + length > len(raw) or raw[at] >= NUM_FILTERS:
            return raw[:at], lines[number:]
        at += length
    return raw[:at], []
