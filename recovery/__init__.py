"""Liveness, cluster state, decisions, and the service that carries them out."""
