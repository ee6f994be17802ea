"""Adapters: a few weights that are trained beside a model that stays as it is."""
