"""Damage to valid files, drawn from a seeded generator: (generator, bytes) to other bytes."""

import io
import json
import zipfile
from random import Random
from typing import Any

LENGTHS = (0, 1, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
BLOCKS = (1, 4, 8, 64, 512, 5000)
NAMES = ("../../../out.png", "/out.png", "a/../../b.png", "", "x" * 300, "a\nb.png", "\x1b[2J")
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**31, 2**63, 10**400, 0.5, float("inf"), float("nan"), "", "x", "none"),
    *("../../x", "/x", "<script>", "\ud800", "9" * 50, "x" * 10_000, [], {}, [[]], [-1] * 100),
    *({"": 0}, {"name": {}}, ["x", "y"], [0.1, float("nan")]),
)


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
    kind = rng.random()
    if kind < 0.2:
        return mutate_bytes(rng, data)
    plain = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        plain = _changed(rng, plain)
    text = json.dumps(plain)
    if kind < 0.25:  # a depth at which a parser that calls itself fails
        return text.replace("null", "[" * 50_000, 1).encode()
    return text.encode("utf-8" if kind > 0.3 else rng.choice(("utf-16", "utf-8-sig")))


def _changed(rng: Random, plain: Any) -> Any:  # noqa: ANN401
    """A value in which one part, at any depth, is another one."""
    if not isinstance(plain, dict | list) or not plain or rng.random() < 0.15:
        return rng.choice(VALUES)
    if isinstance(plain, list):
        at = rng.randrange(len(plain))
        new = [_changed(rng, plain[at])] * rng.choice((0, 1, 1, 1, 2))
        return [*plain[:at], *new, *plain[at + 1 :]]
    name, other = rng.choice(list(plain)), rng.choice(list(plain))
    rest = {key: value for key, value in plain.items() if key != name}
    renamed = rest | {rng.choice(("x", "", "version", name.upper())): plain[name]}
    changed = plain | {name: _changed(rng, plain[name])}
    return rng.choice((rest, renamed, plain | {name: plain[other]}, *[changed] * 7))


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
