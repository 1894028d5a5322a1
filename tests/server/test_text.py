from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from server.text import TextStream, compile_stops

ALPHABET = "aabbé🙂\n"
TEXTS = st.text(ALPHABET, max_size=24)
STOPS = st.lists(
    st.one_of(st.text("ab", min_size=1, max_size=5), st.text(ALPHABET, min_size=1, max_size=3)),
    max_size=4,
    unique=True,
)
JUNK = st.binary(max_size=3)


@st.composite
def token_lists(draw: st.DrawFn) -> list[bytes]:
    """Mostly text, with invalid bytes in between, cut at any byte; some tokens are empty."""
    data = b"".join(draw(st.lists(st.one_of(TEXTS.map(str.encode), JUNK), max_size=4)))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def stream(
    tokens: Sequence[bytes],
    stops: Sequence[str] = (),
    *,
    include_stop: bool = False,
    min_tokens: int = 0,
) -> tuple[list[str], TextStream]:
    text = TextStream(compile_stops(stops), include_stop=include_stop, min_tokens=min_tokens)
    pieces = []
    for token in tokens:
        pieces.append(text.push(token))
        if text.is_stopped:
            break
    return [*pieces, text.end()], text


def expected(
    tokens: Sequence[bytes], stops: Sequence[str], *, include_stop: bool, min_tokens: int
) -> str:
    """The definition, by brute force: look at the text of every beginning of the tokens."""
    full = b"".join(tokens).decode(errors="replace")
    for end in range(1, len(full) + 1):
        completed = [stop for stop in stops if full[:end].endswith(stop)]
        if completed and num_tokens_of(tokens, end) > min_tokens:
            longest = max(map(len, completed))
            return full[: end if include_stop else end - longest]
    return full


def num_tokens_of(tokens: Sequence[bytes], num_chars: int) -> int:
    """Tokens that must be there before that many characters are certain; the end makes all so."""
    plain, text = TextStream(), ""
    for count, token in enumerate(tokens, start=1):
        text += plain.push(token)
        if len(text) >= num_chars:
            return count
    return len(tokens)


@settings(max_examples=400, deadline=None)
@given(token_lists(), STOPS, st.booleans(), st.integers(0, 4))
def test_joined_pieces_are_the_text_cut_at_the_stop_completed_first(
    tokens: list[bytes], stops: list[str], include_stop: bool, min_tokens: int
) -> None:
    pieces, _ = stream(tokens, stops, include_stop=include_stop, min_tokens=min_tokens)
    assert "".join(pieces) == expected(
        tokens, stops, include_stop=include_stop, min_tokens=min_tokens
    )


@settings(max_examples=200, deadline=None)
@given(token_lists(), STOPS)
def test_nothing_is_released_that_a_later_token_takes_back(
    tokens: list[bytes], stops: list[str]
) -> None:
    """What is out after k tokens begins the answer of every continuation, stops included."""
    pieces, _ = stream(tokens, stops)
    for count in range(len(pieces)):
        released = "".join(pieces[:count])
        for rest in {stop[start:] for stop in stops for start in range(len(stop))}:
            answer, _ = stream([*tokens[:count], rest.encode()], stops)
            assert "".join(answer).startswith(released)


@settings(max_examples=200, deadline=None)
@given(token_lists(), STOPS, st.integers(0, 4))
def test_text_is_released_as_soon_as_it_is_certain(
    tokens: list[bytes], stops: list[str], min_tokens: int
) -> None:
    """Held back is at most a beginning of a stop string, never a character more."""
    text = TextStream(compile_stops(stops), min_tokens=min_tokens)
    decoded = TextStream()
    released, full = "", ""
    for token in tokens:
        released += text.push(token)
        full += decoded.push(token)
        if text.is_stopped:
            return
        held = full[len(released) :]
        assert released + held == full
        assert not held or any(stop[:-1].startswith(held) for stop in stops)


def test_a_stop_that_begins_with_itself_is_found_in_a_longer_run() -> None:
    """Falling back to nothing after a mismatch would miss the match that began meanwhile."""
    assert "".join(stream([b"aa", b"ab"], ["aab"])[0]) == "a"
    assert "".join(stream([b"xababa", b"bc"], ["ababc"])[0]) == "xab"


def test_a_stop_before_the_gate_is_released_but_for_its_own_beginning() -> None:
    text = TextStream(compile_stops(["aba"]), min_tokens=1)
    assert [text.push(b"aba"), text.push(b"ba")] == ["ab", ""]
    assert text.is_stopped


def test_a_character_split_over_tokens_is_released_whole() -> None:
    smile = "🙂".encode()
    assert stream([b"a", smile[:1], smile[1:3], smile[3:] + b"b"])[0] == ["a", "", "", "🙂b", ""]


def test_bytes_that_never_become_a_character_are_replaced_at_the_end() -> None:
    assert stream([b"a", b"\xf0\x9f"])[0] == ["a", "", "�"]


def test_a_stop_string_across_tokens_leaks_nothing() -> None:
    pieces, text = stream([b"one E", b"N", b"D two"], ["END"])
    assert pieces == ["one ", "", "", ""]
    assert text.is_stopped


def test_a_beginning_that_comes_to_nothing_is_released() -> None:
    assert stream([b"EN", b"ENDLESS"], ["ENDED"])[0] == ["", "ENENDLESS", ""]


def test_held_back_text_is_released_at_the_end() -> None:
    pieces, text = stream([b"so E", b"N"], ["END"])
    assert pieces == ["so ", "", "EN"]
    assert not text.is_stopped


def test_the_stop_completed_first_wins_wherever_it_began() -> None:
    assert "".join(stream([b"abcd"], ["bcd", "c"])[0]) == "ab"


def test_of_two_completed_together_the_longer_is_cut() -> None:
    assert "".join(stream([b"xaab"], ["b", "aab"])[0]) == "x"


def test_min_tokens_gates_stop_strings() -> None:
    tokens = [b"a.", b"b.", b"c.", b"d."]
    assert "".join(stream(tokens, ["."], min_tokens=2)[0]) == "a.b.c"


def test_a_stop_that_begins_before_the_gate_and_ends_after_it_counts() -> None:
    assert "".join(stream([b"aE", b"N", b"D"], ["END"], min_tokens=2)[0]) == "a"


def test_num_chars_counts_what_is_decoded_and_not_what_is_released() -> None:
    text = TextStream(compile_stops(["END"]))
    text.push(b"xE")
    assert text.num_chars == 2
