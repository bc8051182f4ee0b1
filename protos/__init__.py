"""The wire contract: two .proto files and the stubs generated from them."""
