"""Keys as they are written in files and variables, and what a message may say of them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from server.keys import Grant, KeyProblems, Keys, hash_key, joined, read_key_file
from server.settings import Settings, SettingsError, forget_secrets, read_settings

FIRST = "sk-first-0123456789"
SECOND = "sk-second-0123456789"
ADMIN = "sk-admin-0123456789"


def digest(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def write(folder: Path, *lines: str) -> Path:
    path = folder / "keys"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_file_holds_plain_keys_hashes_and_one_admin_key(tmp_path: Path) -> None:
    hashed = digest(SECOND).upper().replace("SHA256", "sha256")
    path = write(tmp_path, "# ours", "", FIRST, f"  {hashed}  ", f"admin {ADMIN}")
    keys = read_key_file(path)
    assert keys == Keys((digest(FIRST), digest(SECOND)), digest(ADMIN))
    granted = [keys.grant(key) for key in (FIRST, SECOND, ADMIN, FIRST + "x", digest(FIRST), "é")]
    assert granted == [Grant.USER, Grant.USER, Grant.ADMIN, *[Grant.NOTHING] * 3]


def test_every_key_is_compared_whichever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    """An early end would tell by its time which hash it was."""
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return one == other

    monkeypatch.setattr("server.keys.hmac.compare_digest", compare)
    assert Keys((digest(FIRST), digest(SECOND)), digest(ADMIN)).grant(FIRST) is Grant.USER
    assert len(compared) == 3


def test_a_bad_file_is_every_problem_and_no_key(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        *("short", f"{FIRST} {SECOND}", "sk-schlüssel-0123456789", "sha256:0123456789abcdef"),
        *(f"admin {ADMIN}", f"admin {SECOND}", "k" * 300),
    )
    with pytest.raises(KeyProblems) as refused:
        read_key_file(path)
    told = [problem.removeprefix(str(path)) for problem in refused.value.problems]
    assert told == [
        " line 1: a key must have 16 to 256 characters, got 5",
        " line 2: a key must be alone in its line, or behind the word admin",
        " line 3: a key must consist of visible ASCII characters, without spaces",
        " line 4: a key must have 64 hexadecimal digits after sha256:",
        " line 7: a key must have 16 to 256 characters, got 300",
        ": there may be one admin key, got 2",
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "holds no key"),
        (b"# nothing\n\n", "holds no key"),
        (b"\xff\xfe", "is not a text in UTF-8"),
        (b"x" * (2**20 + 1), "must have at most 1048576 bytes"),
    ],
)
def test_a_file_without_keys_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    """Served without keys, because the file was empty, would be the worst of all."""
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(KeyProblems, match=told):
        read_key_file(path)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({"api_key_file": tmp_path / "none"}, {})
    assert refused.value.problems == [
        f"{tmp_path / 'none'} cannot be read: No such file or directory"
    ]


def test_the_environment_and_a_file_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT2_SERVER_API_KEY", f"{SECOND},{FIRST}")
    monkeypatch.setenv("GPT2_SERVER_ADMIN_KEY", ADMIN)
    settings = read_settings({"api_key_file": write(tmp_path, FIRST)}, os.environ)
    forget_secrets(os.environ)
    assert not any(ADMIN in value for value in os.environ.values())
    assert settings.keys == Keys((digest(SECOND), digest(FIRST)), digest(ADMIN))
    assert FIRST not in repr(settings)
    assert digest(FIRST) not in repr(settings)


def test_no_key_is_a_member_of_the_settings() -> None:
    settings = Settings(api_key=(FIRST,), admin_key=ADMIN)
    assert FIRST not in str(settings.model_dump())
    assert ADMIN not in str(settings.model_dump())


@pytest.mark.parametrize("variable", ["API_KEY", "ADMIN_KEY"])
@pytest.mark.parametrize("value", ["", "sk-secret", "sk-secret with a space", f"{FIRST},"])
def test_a_bad_variable_is_refused_without_its_value(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(f"GPT2_SERVER_{variable}", value)
    if variable == "ADMIN_KEY" and value == f"{FIRST},":
        return  # a comma is a character as any other, where there is one key
    with pytest.raises(SettingsError) as refused:
        read_settings({}, {})
    assert variable.lower() in str(refused.value)
    assert "sk-" not in str(refused.value)


def test_an_admin_key_is_one_and_nobody_elses() -> None:
    with pytest.raises(KeyProblems, match="differ"):
        joined(Keys((), digest(ADMIN)), [Keys((), digest(FIRST))])
    with pytest.raises(KeyProblems, match="must not be among"):
        joined(Keys((digest(ADMIN),), digest(ADMIN)), [])


def test_hashing_twice_is_hashing_once() -> None:
    assert hash_key(hash_key(FIRST)) == hash_key(FIRST) == digest(FIRST)
