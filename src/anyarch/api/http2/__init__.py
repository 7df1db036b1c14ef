"""HTTP/2 (RFC 9113) as far as gRPC needs it, without any I/O: bytes in, bytes out, callbacks."""
