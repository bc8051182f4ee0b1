"""How any of our processes runs: errors, server, telemetry."""
