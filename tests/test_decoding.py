"""Bytes of any cut, UTF-8 or UTF-16, become text; what is neither is left out and told of once."""

import logging

import pytest

from dia2stream.stdio.decoding import as_utf8, decoded, read_text

TEXT = "[S1] Na\u00efve \u201cquotes\u201d \U0001f600\r\nend"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_the_same_wherever_its_bytes_are_cut(encoding):
    data = TEXT.encode(encoding)
    for size in (1, 2, 3, 7, 1000):
        chunks = [data[start : start + size] for start in range(0, len(data), size)]
        assert "".join(decoded(iter(chunks))) == TEXT
    assert read_text(data) == TEXT


def test_utf16_of_either_order_is_known_by_its_mark():
    assert read_text(b"\xff\xfe" + TEXT.encode("utf-16-le")) == TEXT
    assert read_text(b"\xfe\xff" + TEXT.encode("utf-16-be")) == TEXT


@pytest.mark.parametrize("data", [b"", b"a", b"\xff", b"ab", b"\xef\xbb\xbfab"])
def test_other_bytes_pass_as_they_are(data):
    assert b"".join(as_utf8(iter([data[:1], data[1:]]))) == data


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"One\xfftwo \xfe three", "Onetwo  three"),
        (b"One two\xe2\x82", "One two"),
        (b"caf\xe9 au lait", "caf au lait"),
        (b"\xed\xa0\x80x", "x"),
    ],
)
def test_bytes_that_are_no_utf8_are_left_out_and_told_of_once(data, text, caplog):
    for cut in range(len(data)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert "".join(decoded(iter([data[:cut], data[cut:]]))) == text
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "not UTF-8" in caplog.text
