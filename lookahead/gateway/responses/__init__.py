"""/v1/responses, without storage: each request brings the whole conversation."""
