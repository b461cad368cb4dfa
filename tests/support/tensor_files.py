"""Write safetensors files by hand, with whatever header a test wants."""

import json
from pathlib import Path


def entry(begin=0, end=4, shape=(1,), dtype="F32", **more):
    """Return the header entry of one tensor."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end], **more}


def write_tensors(path: Path, header, data_bytes: int = 4, length: int | None = None) -> Path:
    """Write a safetensors file with that header (an object or text). Its data is zero and takes no space on disk."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write((len(text) if length is None else length).to_bytes(8, "little") + text)
        file.truncate(file.tell() + data_bytes)
    return path
