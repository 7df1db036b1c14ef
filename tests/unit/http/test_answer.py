"""Our reading of an answer's head, against the standard library's."""

from __future__ import annotations

import http.client
import socket

import pytest

from anyarch.http.answer import Answer

HEADS = {
    "plain": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: 1\r\nx-a:  2 \r\n\r\nabc",
    "no reason": b"HTTP/1.1 204\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 9\r\n\r\n"
    b"3\r\nabc\r\n0\r\n\r\n",
    "until the end": b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\nabc",
    "closing": b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 3\r\n\r\nabc",
    "old": b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    "old and kept": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc",
    "continue first": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
    "unmodified": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n",
    "folded": b"HTTP/1.1 200 OK\r\nX-A: one\r\n  two\r\nContent-Length: 3\r\n\r\nabc",
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc",
    "senseless length": b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc",
    "latin": b"HTTP/1.1 200 OK\r\nX-A: gr\xfc\xdfe\r\nContent-Length: 3\r\n\r\nabc",
}


def read(kind, raw, method):
    mine, theirs = socket.socketpair()
    with mine, theirs:
        theirs.sendall(raw)
        theirs.shutdown(socket.SHUT_WR)
        answer = kind(mine, method=method)
        try:
            answer.begin()
            values = [" ".join(v.split()) for v in answer.headers.get_all("x-A") or []]
            head = (answer.status, answer.reason, answer.length, answer.chunked, bool(answer.will_close))
            return *head, values, answer.headers.get("Nothing"), answer.read()
        finally:
            answer.close()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("name", HEADS)
def test_an_answer_is_read_as_the_standard_library_reads_it(name, method):
    assert read(Answer, HEADS[name], method) == read(http.client.HTTPResponse, HEADS[name], method)


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"", http.client.RemoteDisconnected),
        (b"SSH-2.0-OpenSSH\r\n", http.client.BadStatusLine),
        (b"HTTP/1.1 20x OK\r\n\r\n", http.client.BadStatusLine),
        (b"HTTP/1.1 200 OK\r\nX: 1\r\n", http.client.IncompleteRead),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", http.client.HTTPException),
        (b"HTTP/1.1 200 OK\r\nName : 1\r\n\r\n", http.client.HTTPException),
        (b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 200 + b"\r\n", http.client.HTTPException),
        (b"HTTP/1.1 200 OK\r\nX: " + b"1" * 70000 + b"\r\n\r\n", http.client.LineTooLong),
    ],
)
def test_what_is_no_answer_is_refused(raw, error):
    with pytest.raises(error):
        read(Answer, raw, "GET")
