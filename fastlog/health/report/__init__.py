"""How findings are shown: one page, a terminal, TensorBoard. Judges nothing itself."""
