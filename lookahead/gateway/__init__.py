"""The HTTP server: an OpenAI-compatible API that calls the verifier over gRPC."""
