"""Damage to valid files, drawn from a seeded generator: (generator, bytes) to other bytes."""

import io
import re
import zipfile
from random import Random

LENGTHS = (0, 1, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
BLOCKS = (1, 4, 8, 64, 512, 5000)
NAMES = ("../../../out.png", "/out.png", "a/../../b.png", "", "x" * 300, "a\nb.png", "\x1b[2J")
VALUES = (
    *("null", "true", "0", "-1", "2147483648", "9223372036854775808", f"1{400 * '0'}", "0.5"),
    *("1e999", "NaN", '""', '"x"', '"none"', '"../../x"', '"/x"', '"<script>"', r'"\ud800"'),
    *(f'"{50 * "9"}"', f'"{10_000 * "x"}"', "[]", "{}", "[[]]", "[-1, -1]", '["x", "y"]'),
    *('{"": 0}', '{"name": {}}', "[0.1, NaN]", 50_000 * "["),
)
"""The last one is so deep that a parser that calls itself fails."""
PARTS = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[\d.e+-]*|true|false|null|\[[^][]*\]|\{[^{}]*\}')
"""Of JSON: texts, names of fields among them, numbers, and the innermost lists and objects."""


def place(rng: Random, size: int) -> int:
    """Half of all changes are near an end of the file, where most formats have their lengths."""
    near = min(rng.randrange(4096), size)
    return rng.choice((near, size - near, rng.randrange(size + 1), rng.randrange(size + 1)))


def mutate_bytes(rng: Random, data: bytes) -> bytes:
    """Flipped bits, cut ends, lost and repeated blocks, other lengths, noise, names."""
    for _ in range(rng.randint(1, 4)):
        at, width = place(rng, len(data)), rng.choice((1, 2, 4, 8))
        flipped = bytes(one ^ 1 << rng.randrange(8) for one in data[at : at + width])
        block = data[place(rng, len(data)) :][: rng.choice(BLOCKS)]
        length = (rng.choice(LENGTHS) % 256**width).to_bytes(width, "little")
        noise = rng.choice((rng.randbytes(rng.choice(BLOCKS)), rng.choice(NAMES).encode()))
        new, over = rng.choice(
            (
                *((flipped, width), (b"", len(data)), (b"", rng.choice(BLOCKS)), (block, 0)),
                *((block, len(block)), (length, width), (length[::-1], width), (noise, 0)),
            )
        )
        data = data[:at] + new + data[at + over :]
    return data


def mutate_json(rng: Random, data: bytes) -> bytes:
    """Other values, fields and nesting; sometimes other bytes, or another encoding."""
    if rng.random() < 0.2:
        return mutate_bytes(rng, data)
    text = data.decode()
    for _ in range(rng.randint(1, 3)):
        part = rng.choice(list(PARTS.finditer(text)))
        is_name = text[part.end() : part.end() + 1] == ":"
        new = rng.choice([one for one in VALUES if one[0] == '"' or not is_name])
        text = text[: part.start()] + new + text[part.end() :]
    return text.encode("utf-8" if rng.random() > 0.05 else rng.choice(("utf-16", "utf-8-sig")))


def mutate_tar(rng: Random, data: bytes) -> bytes:
    """Other names, sizes, kinds and links, under right checksums; or other bytes."""
    if rng.random() < 0.4:
        return mutate_bytes(rng, data)
    blocks = [bytearray(data[at : at + 512]) for at in range(0, len(data), 512)]
    for header in rng.sample([one for one in blocks if one[257:262] == b"ustar"], 2):
        name, size = rng.choice(NAMES).encode()[:100].ljust(100, b"\0"), rng.choice(LENGTHS)
        wide = rng.choice((b"\x80\0\0\0", b"\xff\xff\xff\xff")) + size.to_bytes(8, "big")
        kind = rng.choice(b"0123456LKxg").to_bytes(1, "big")
        start, new = rng.choice(
            (
                *((0, name), (124, b"%011o\0" % (size % 8**11)), (124, wide)),
                *((156, kind + name), (rng.randrange(512), rng.randbytes(1))),
            )
        )
        header[start : start + len(new)] = new
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    blocks.insert(rng.randrange(len(blocks)), rng.choice((bytearray(), rng.choice(blocks))))
    return b"".join(blocks)


def mutate_zip(rng: Random, data: bytes) -> bytes:
    """Other bytes in the members of a zip, under right checksums; or other bytes of the zip."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, data)
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        members = {info.filename: old.read(info) for info in old.infolist()}
    pickled = [name for name in members if name.endswith("data.pkl")]
    name = rng.choice(list(members) if rng.random() < 0.3 else pickled)
    members[name] = mutate_bytes(rng, members[name])
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as new:
        for name, content in members.items():
            new.writestr(name, content)
    return made.getvalue()
