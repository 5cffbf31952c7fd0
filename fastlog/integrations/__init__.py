"""fastlog in training frameworks: one module for each, imported by name; none needs another.

``metrics`` and ``hyperparameters`` are what they share.
"""
