"""Frames survive every way a byte stream can be cut."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kuberouterpy.lab.engine.frames import Frame, Kind, Parser, Writer, pack

FRAMES = st.lists(st.tuples(st.sampled_from(Kind), st.binary(max_size=40)), max_size=8)


@given(FRAMES, st.lists(st.integers(1, 20), min_size=1))
def test_frames_come_out_as_they_went_in_wherever_the_stream_is_cut(frames: list[Frame], cuts: list[int]) -> None:
    stream = b"".join(pack(kind, body) for kind, body in frames)
    parser, got, turn = Parser(), [], 0
    while stream:
        size = cuts[turn % len(cuts)]
        turn += 1
        got += list(parser.feed(stream[:size]))
        stream = stream[size:]
    assert got == frames


def test_a_stream_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="frame of"):
        list(Parser().feed(b"\xff\xff\xff\xff\xffnoise"))


def test_a_long_body_is_sent_in_chunks_and_an_empty_one_as_one_frame() -> None:
    reader, writer = os.pipe()
    frames = Writer(writer)
    frames.send(Kind.STDIN)
    os.close(writer)
    assert list(Parser().feed(os.read(reader, 100))) == [(Kind.STDIN, b"")]
    os.close(reader)
