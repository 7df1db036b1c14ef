"""BuildKit's gRPC interface: messages, the HTTP/2 and gRPC core, clients and conversion.

`proto` holds the messages, `http2` the connection without any I/O, `rpc` calls on top of it and the
transports (sockets, tunnels, pipes). What a server answers is `daemon`'s, what a client offers `session`'s.
"""
