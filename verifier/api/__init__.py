"""The gRPC edge: requests read and validated, replies written."""
