"""fastlog in training frameworks: one module for each, imported by name; none needs another.

``metrics`` and ``hyperparameters`` are what they share. Knows a framework, ``watch`` and the writer. Knows no
summary and no event.
"""
