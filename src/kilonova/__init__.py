"""Kilonova: an infrastructure cloud that gives every project a network of its own and speaks the OpenStack APIs."""

__version__ = "0.1.0"
