"""The checksum of LevelDB's tables and TensorFlow's tensors: CRC-32C, masked."""

from __future__ import annotations

import google_crc32c
import numpy as np
import numpy.typing as npt

_CHUNK_BYTES = 1 << 20
_MASK_DELTA = 0xA282EAD8


def masked_crc32c(content: bytes | npt.NDArray[np.uint8]) -> int:
    """CRC-32C as it is stored, rotated and shifted: LevelDB's ``util/crc32c.h``, ``Mask``."""
    crc = 0
    for start in range(0, len(content), _CHUNK_BYTES):
        crc = google_crc32c.extend(crc, bytes(content[start : start + _CHUNK_BYTES]))
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF
