"""Clips to train on: sources, camera motion, degradation, and the building of shards."""
