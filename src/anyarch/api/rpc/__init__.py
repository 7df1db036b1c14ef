"""gRPC calls over an HTTP/2 connection, and the byte streams that carry it: sockets, tunnels, pipes."""
