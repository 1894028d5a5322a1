"""Keys: who may ask. They are known by their hashes only, and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

HASH_PREFIX = "sha256:"
ADMIN_MARK = "admin"
MIN_KEY_LEN = 16
MAX_KEY_LEN = 256
MAX_FILE_BYTES = 2**20

_PLAIN = re.compile(r"[!-~]+")
_HASH = re.compile(r"[0-9a-f]{64}")


class KeyProblems(ValueError):
    """Keys that cannot be used. ``problems`` names each of them, one line each, and no key."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Grant(Enum):
    """What a key is good for."""

    NOTHING = "nothing"
    USER = "user"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Keys:
    """The hashes, as :func:`hash_key` gives them; without any, everybody may ask everything."""

    users: tuple[str, ...] = ()
    admin: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nobody needs a key."""
        return not self.users and self.admin is None

    def grant(self, key: str) -> Grant:
        """What ``key`` may do; each hash is compared, whichever matches."""
        given = _hash(key).encode()
        is_user = False
        for known in self.users:
            is_user |= hmac.compare_digest(given, known.encode())
        is_admin = self.admin is not None and hmac.compare_digest(given, self.admin.encode())
        if is_admin:
            return Grant.ADMIN
        return Grant.USER if is_user else Grant.NOTHING


def hash_key(text: str) -> str:
    """``sha256:`` and 64 digits, of a plain key or of such a hash. Raises ValueError, without it.

    A plain SHA-256 is enough, because a key is drawn and not thought up: nothing can be guessed.
    """
    if text.startswith(HASH_PREFIX):
        digits = text.removeprefix(HASH_PREFIX).lower()
        if not _HASH.fullmatch(digits):
            raise ValueError(f"must have 64 hexadecimal digits after {HASH_PREFIX}")
        return HASH_PREFIX + digits
    if not MIN_KEY_LEN <= len(text) <= MAX_KEY_LEN:
        raise ValueError(f"must have {MIN_KEY_LEN} to {MAX_KEY_LEN} characters, got {len(text)}")
    if not _PLAIN.fullmatch(text):
        raise ValueError("must consist of visible ASCII characters, without spaces")
    return _hash(text)


def _hash(key: str) -> str:
    return HASH_PREFIX + hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def read_key_file(path: Path) -> Keys:
    """One key a line, plain or hashed; ``admin`` before the one for administration.

    Empty lines and those that begin with ``#`` say nothing. Raises KeyProblems listing all.
    """
    users: list[str] = []
    admins: list[str] = []
    problems: list[str] = []
    for number, line in enumerate(_lines(path), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        is_admin = words[0] == ADMIN_MARK and len(words) == 2
        try:
            (admins if is_admin else users).append(_hash_of(words[is_admin:]))
        except ValueError as error:
            problems.append(f"{path} line {number}: a key {error}")
    if len(admins) > 1:
        problems.append(f"{path}: there may be one admin key, got {len(admins)}")
    if not users and not admins and not problems:
        problems.append(f"{path} holds no key")
    if problems:
        raise KeyProblems(problems)
    return Keys(tuple(users), admins[0] if admins else None)


def _hash_of(words: list[str]) -> str:
    if len(words) != 1:
        raise ValueError(f"must be alone in its line, or behind the word {ADMIN_MARK}")
    return hash_key(words[0])


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KeyProblems([f"{path} cannot be read: {error.strerror}"]) from None
    if len(content) > MAX_FILE_BYTES:
        raise KeyProblems([f"{path} must have at most {MAX_FILE_BYTES} bytes"])
    try:
        return content.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise KeyProblems([f"{path} is not a text in UTF-8"]) from None


def joined(own: Keys, others: Iterable[Keys]) -> Keys:
    """All of them together. Raises KeyProblems for two admin keys, and for one that users share."""
    every = [own, *others]
    users = tuple(dict.fromkeys(user for keys in every for user in keys.users))
    admins = {keys.admin for keys in every if keys.admin is not None}
    if len(admins) > 1:
        raise KeyProblems(["there may be one admin key: the file and the variable differ"])
    admin = next(iter(admins), None)
    if admin in users:
        raise KeyProblems(["the admin key must not be among the other keys"])
    return Keys(users, admin)
