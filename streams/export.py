"""Letters as a file that other tools read: JSON Lines, or Parquet if the name ends so."""

import os
from base64 import b64encode
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from streams.letters import Letter

CHUNK = 5_000
"""Letters of one row group of a Parquet file, all of which are held in memory at once."""

CHUNK_BYTES = 16 << 20
"""Bytes of letters at which a row group ends sooner: a letter may have a megabyte and more."""

PARQUET = pa.schema(
    [
        pa.field("letter", pa.int64()),
        pa.field("topic", pa.string()),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("stage", pa.string()),
        pa.field("reasons", pa.list_(pa.string())),
        pa.field("suite", pa.string()),
        pa.field("time", pa.timestamp("ms", tz="UTC")),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("headers", pa.map_(pa.string(), pa.binary())),
    ]
)


def export(letters: Iterable[Letter], path: Path) -> int:
    """Write letters to a new file, with their original bytes and all headers; returns how many.

    JSON has the bytes in base64 (`key_base64`, `value_base64`, and each of `headers_base64`) and `time` in seconds
    since 1970. A file that exists is an error (`FileExistsError`). It has its name only once it is whole: until then it
    stands beside it as `.<name>.<process>.partial`, which is removed if it could not be finished. Memory holds about
    `CHUNK_BYTES` of letters, however many there are.
    """
    write = _write_parquet if path.suffix == ".parquet" else _write_lines
    if path.exists():
        raise FileExistsError(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        count = write(letters, partial)
        if path.exists():
            raise FileExistsError(path)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def _write_lines(letters: Iterable[Letter], path: Path) -> int:
    count = 0
    with path.open("wb") as file:
        for letter in letters:
            file.write(orjson.dumps(_as_json(letter)) + b"\n")
            count += 1
    return count


def _write_parquet(letters: Iterable[Letter], path: Path) -> int:
    count = 0
    # Opened by Arrow, what fails would be told in its words, which name the partial file.
    with path.open("wb") as file, pq.ParquetWriter(file, PARQUET, compression="zstd") as writer:
        for rows in _row_groups(letters):
            writer.write_table(rows)
            count += rows.num_rows
    return count


def _as_json(letter: Letter) -> dict[str, object]:
    return {
        **letter.as_dict(),
        "key_base64": _base64(letter.key),
        "value_base64": _base64(letter.value),
        "headers_base64": {name: _base64(value) for name, value in letter.headers.items()},
    }


def _as_row(letter: Letter) -> dict[str, object]:
    return {
        **letter.as_dict(),
        "time": int(letter.time * 1_000),
        "key": letter.key,
        "value": letter.value,
        "headers": list(letter.headers.items()),
    }


def _base64(content: bytes | None) -> str | None:
    return None if content is None else b64encode(content).decode()


def _row_groups(letters: Iterable[Letter]) -> Iterator[pa.Table]:
    rows: list[dict[str, object]] = []
    size = 0
    for letter in letters:
        rows.append(_as_row(letter))
        size += sum(len(part or b"") for part in (letter.key, letter.value, *letter.headers.values()))
        if len(rows) == CHUNK or size >= CHUNK_BYTES:
            yield pa.Table.from_pylist(rows, PARQUET)
            rows, size = [], 0
    if rows:
        yield pa.Table.from_pylist(rows, PARQUET)
