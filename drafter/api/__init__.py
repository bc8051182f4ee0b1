"""The gRPC edge: unary calls, the Draft stream, validation."""
