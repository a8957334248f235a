"""Changes to inputs that keep what would make any change end in the first check: lengths, offsets, the first line."""

import json
import random

_DTYPES = ("F32", "F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "X")
_ODD = (0, 1, 2, 3, 7, 8, 16, 64, 255, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 10**30, -1, 1.5, True, None, "8", [])
_ITEMSIZE = {"F64": 8, "I64": 8, "F32": 4, "F16": 2, "BF16": 2}
_LARGEST = 60_000  # bytes that are still put in order


def safetensors(data, longest, seed, mutate):
    """Change the header as JSON, its text, or the numbers; the length of the header is right again in most cases."""
    chance = random.Random(seed)
    header, payload = _split(data)
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError):
        entries = None
    kind = chance.random()
    if kind < 0.7 and isinstance(entries, dict) and entries:
        for _ in range(chance.choice((1, 1, 2, 5))):
            _change(entries, chance)
        if chance.random() < 0.6 and len(header) < _LARGEST:
            payload = _put_in_order(entries, payload, longest)
        header = json.dumps(entries).encode()
    elif kind < 0.85:
        header = mutate(header, len(header) + 64)
    elif kind < 0.95:
        payload = mutate(payload, len(payload) + 64)
    else:
        return mutate(data, longest)
    return (len(header).to_bytes(8, "little") + header + payload)[:longest]


def _split(data):
    length = int.from_bytes(data[:8], "little")
    return (data[8 : 8 + length], data[8 + length :]) if length < len(data) else (data[8:], b"")


def _change(entries, chance):
    """One change to one tensor, or to the set of them."""
    names = list(entries)
    name = chance.choice(names)
    entry = entries[name]
    way = chance.randrange(10)
    if way == 0:
        del entries[name]
        if not entries:
            entries["a"] = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    elif way == 1:
        entries[_renamed(name, names, chance)] = entries.pop(name)
    elif way == 2:
        entries[_renamed(name, names, chance)] = json.loads(json.dumps(entry))
    elif way == 3:
        entries["__metadata__"] = chance.choice(_NOTES)
    elif not isinstance(entry, dict):
        entries[name] = {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}
    elif way == 4:
        entry["dtype"] = chance.choice(_DTYPES)
    elif way == 5:
        entry["data_offsets"] = [chance.choice(_ODD) for _ in range(chance.choice((1, 2, 2, 2, 3)))]
    elif way == 6:
        entry.pop(chance.choice(list(entry) or [""]), None)
    else:
        _reshape(entry, chance)


def _reshape(entry, chance):
    shape = entry.get("shape")
    if not isinstance(shape, list) or not shape or chance.random() < 0.15:
        entry["shape"] = [chance.choice((0, 1, 2, 8)) for _ in range(chance.randrange(5))]
    elif chance.random() < 0.3:
        shape.insert(chance.randrange(len(shape) + 1), chance.choice((0, 1, 2)))
    elif chance.random() < 0.4:
        shape.pop(chance.randrange(len(shape)))
    else:
        shape[chance.randrange(len(shape))] = chance.choice(_ODD if chance.random() < 0.3 else range(33))


def _renamed(name, names, chance):
    """A part of the name from another name, a number in it changed, or something odd in it."""
    parts, others = name.split("."), chance.choice(names).split(".")
    place = chance.randrange(len(parts))
    parts[place] = chance.choice(
        (*others, "0", "1", "9", "99999999999", "", "\x1b[31m", "ü", "a" * 600, "alpha", "lora_A")
    )
    return ".".join(parts)


def _put_in_order(entries, payload, longest):
    """Give each tensor the bytes that its shape and format need, one after the other; the payload for that."""
    position = 0
    for entry in entries.values():
        if isinstance(entry, dict) and "shape" in entry:
            num_bytes = _ITEMSIZE.get(str(entry.get("dtype")), 1)
            for side in entry["shape"] if isinstance(entry["shape"], list) else ():
                num_bytes *= side if type(side) is int and side >= 0 else 0
            if position + num_bytes > longest:
                continue
            entry["data_offsets"] = [position, position + num_bytes]
            position += num_bytes
    return payload[:position].ljust(position, b"\0")


_NOTES = (
    {"latent_rgb_factors": "[[0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 1]]", "latent_rgb_factors_bias": "[0, 0, 0]"},
    {"latent_rgb_factors": "[[1e999, NaN, 99999999999999999999999], [], 3]"},
    {"latent_rgb_factors": "[" * 3000},
    {"format": "pt"},
    {"format": 3},
    "pt",
)


def first_line_kept(data, longest, seed, mutate):
    """Change all but the first line, which says what the rest is."""
    head, _, rest = data.partition(b"\n")
    chance = random.Random(seed)
    if chance.random() < 0.02:
        return mutate(data, longest)
    return head + b"\n" + mutate(rest, max(longest - len(head) - 1, 1))
