"""Trainable layers: rank-structured matrices whose generators are torch parameters."""
