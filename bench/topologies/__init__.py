"""Redis servers for benchmarks and tests: single, Sentinel, Cluster, faulty."""
