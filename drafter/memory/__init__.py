"""The shared memory: replicas that follow the log, and the outbox that feeds it."""
