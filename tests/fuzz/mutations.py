"""Damage to files, drawn from a seeded generator: to bytes, JSON, headers of tars, pickles in zips.

Every function takes a generator and the bytes of a valid file and returns other bytes.
"""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes], bytes]
LENGTHS = (0, 1, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
"""What stands in place of a length or an offset."""
ENDS = 4096
"""Half of all changes are so near to an end of the file, where most formats have their lengths."""
NAMES = ("../../../out.png", "/out.png", "a/../../b.png", "", ".", "x" * 300, "a\nb.png", "\x1b[2J")
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**31, 2**63, 2**64, 10**400, 0.5, 1e308, float("inf"), float("nan")),
    *("", "x", "../../x", "/x", "<script>", "\ud800", "9" * 50, "none", "x" * 10_000),
    *([], {}, [[]], [None], [-1] * 100, {"": 0}, {"name": {}}, ["x", "y"], [0.1, float("nan")]),
)


def place(rng: Random, size: int) -> int:
    """A place in a file of a size, near an end as often as anywhere."""
    if size <= ENDS or rng.random() < 0.5:
        return rng.randrange(size + 1)
    near = rng.randrange(ENDS)
    return near if rng.random() < 0.5 else size - near


def mutate_bytes(rng: Random, data: bytes) -> bytes:
    """Between one and four changes."""
    for _ in range(rng.randint(1, 4)):
        data = rng.choice(CHANGES)(rng, data)
    return data


def _flip(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8) if data else 0):
        changed[min(place(rng, len(data)), len(data) - 1)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(rng: Random, data: bytes) -> bytes:
    return data[: place(rng, len(data))]


def _remove(rng: Random, data: bytes) -> bytes:
    at = place(rng, len(data))
    return data[:at] + data[at + rng.choice((1, 4, 64, 512, 5000)) :]


def _copy(rng: Random, data: bytes) -> bytes:
    """A block once more, somewhere: between what is there, or over it."""
    block = data[place(rng, len(data)) :][: rng.choice((1, 8, 64, 512, 5000))]
    at = place(rng, len(data))
    return data[:at] + block + data[at + rng.choice((0, len(block))) :]


def _length(rng: Random, data: bytes) -> bytes:
    width, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
    value = rng.choice(LENGTHS) % 256**width
    at = place(rng, len(data))
    return data[:at] + value.to_bytes(width, order) + data[at + width :]  # type: ignore[arg-type]


def _noise(rng: Random, data: bytes) -> bytes:
    at = place(rng, len(data))
    return data[:at] + rng.randbytes(rng.choice((1, 16, 700))) + data[at:]


def _word(rng: Random, data: bytes) -> bytes:
    at = place(rng, len(data))
    return data[:at] + rng.choice(NAMES).encode() + data[at:]


CHANGES: tuple[Mutation, ...] = (
    _flip,
    _flip,
    _cut,
    _remove,
    _copy,
    _length,
    _length,
    _noise,
    _word,
)


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
    if kind < 0.3:
        return text.encode(rng.choice(("utf-16", "utf-32-be", "utf-8-sig")), "surrogatepass")
    return text.encode()


def _changed(rng: Random, plain: Any) -> Any:  # noqa: ANN401
    """A value in which one part, at any depth, is another one."""
    if not isinstance(plain, dict | list) or not plain or rng.random() < 0.15:
        return rng.choice(VALUES)
    if isinstance(plain, list):
        at = rng.randrange(len(plain))
        new = [_changed(rng, plain[at])] * rng.choice((0, 1, 1, 1, 2))
        return [*plain[:at], *new, *plain[at + 1 :]]
    name = rng.choice(list(plain))
    kind, rest = rng.random(), {key: value for key, value in plain.items() if key != name}
    if kind < 0.1:
        return rest
    if kind < 0.2:
        return rest | {rng.choice(("x", "", "version", name.upper())): plain[name]}
    if kind < 0.3:
        return plain | {name: plain[rng.choice(list(plain))]}
    return plain | {name: _changed(rng, plain[name])}


def mutate_tar(rng: Random, data: bytes) -> bytes:
    """Other names, sizes, kinds and links, under right checksums; or other bytes."""
    if rng.random() < 0.4:
        return mutate_bytes(rng, data)
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    headers = [number for number, block in enumerate(blocks) if block[257:262] == b"ustar"]
    for number in rng.sample(headers, min(len(headers), rng.randint(1, 3))):
        blocks[number] = _other_header(rng, blocks[number])
    if rng.random() < 0.3:
        blocks.insert(rng.randrange(len(blocks)), rng.choice(blocks))
    return b"".join(blocks)


def _other_header(rng: Random, block: bytes) -> bytes:
    header = bytearray(block)
    kind = rng.randrange(4)
    if kind == 0:
        header[:100] = rng.choice(NAMES).encode()[:100].ljust(100, b"\0")
    elif kind == 1:
        size = rng.choice((*LENGTHS, 511, 512, 513))
        negative = b"\xff" * 4 + rng.randbytes(8)
        base256 = b"\x80" + (size % 2**64).to_bytes(11, "big")
        octal = b"%011o\0" % (size % 8**11)
        header[124:136] = rng.choice((octal, octal, base256, negative))
    elif kind == 2:
        header[156:157] = rng.choice((b"0", b"1", b"2", b"3", b"5", b"6", b"L", b"K", b"x", b"g"))
        header[157:257] = rng.choice(NAMES).encode()[:100].ljust(100, b"\0")
    else:
        header[rng.randrange(512)] = rng.randrange(256)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def mutate_zip(rng: Random, data: bytes) -> bytes:
    """Other bytes in the members of a zip, whose checksums are right; or other bytes of the zip."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, data)
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        members = {info.filename: old.read(info) for info in old.infolist()}
    pickled = [name for name in members if name.endswith("data.pkl")]
    name = rng.choice(list(members) if rng.random() < 0.3 else pickled)
    if rng.random() < 0.2:
        del members[name]
    else:
        members[name] = mutate_bytes(rng, members[name])
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as new:
        for name, content in members.items():
            new.writestr(name, content)
    return made.getvalue()


def tar_of(members: dict[str, bytes]) -> bytes:
    """A tar with these members."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return made.getvalue()
