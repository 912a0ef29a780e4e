"""Fitting the second look: candidates on simulated scenes, and the network that tells them apart."""
