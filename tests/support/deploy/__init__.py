"""Manifests, compose stack and container engine."""
