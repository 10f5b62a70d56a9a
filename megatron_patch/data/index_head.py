"""The head of a Megatron `.idx`. Standard library only: the launcher reads it too.

Source: `megatron/core/datasets/indexed_dataset.py` of megatron-core 0.19.2.
"""

from __future__ import annotations

import struct

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEAD = struct.Struct("<9sQBQQ")
"""Magic, version, code of the token type, sequences, document boundaries (documents + 1)."""
TOKEN_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 8: 2}
"""Bytes of one token by the type's code; 6 and 7 are floats, which no tokenizer writes."""
