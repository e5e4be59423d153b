"""One POST and the token it carries: sockets, TLS, timeouts, what their errors mean."""
