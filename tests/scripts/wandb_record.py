"""What an offline run of Weights & Biases has recorded, read from its .wandb file.

The file is a log in LevelDB's format: blocks of 32 KiB, in them pieces of records with a header of
checksum (4 bytes), length (2) and kind (1: a whole record; 2, 3, 4: its first, a middle, its last
piece). The first seven bytes are W&B's own.
"""

import json
import struct
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32 * 1024
WHOLE = 1
FIRST = 2
LAST = 4


def records(run_dir: Path) -> list[Record]:
    """All records of the one offline run in a folder."""
    [path] = run_dir.glob("wandb/offline-run-*/*.wandb")
    data = path.read_bytes()
    start = 7
    pieces = []
    found = []
    while start + 7 <= len(data):
        left_in_block = BLOCK - start % BLOCK
        if left_in_block < 7:  # too little for a header: filled with zeros
            start += left_in_block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, start)
        piece = data[start + 7 : start + 7 + length]
        start += 7 + length
        if kind in (WHOLE, FIRST):
            pieces = []
        pieces.append(piece)
        if kind in (WHOLE, LAST):
            found.append(Record.FromString(b"".join(pieces)))
    return found


def history(run_dir: Path) -> list[dict]:
    """The rows that were logged: tag → value."""
    rows = []
    for record in records(run_dir):
        if record.WhichOneof("record_type") == "history":
            row = {}
            for item in record.history.item:
                row[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            rows.append(row)
    return rows


def configuration(run_dir: Path) -> dict:
    """The arguments that were recorded."""
    for record in records(run_dir):
        if record.WhichOneof("record_type") == "run":
            return {item.key: json.loads(item.value_json) for item in record.run.config.update}
    return {}
