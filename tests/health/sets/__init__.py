"""Runs with planted faults and healthy runs, to hold the rules against. Importing it knows them all."""

from sets import (
    healthy_classics,
    healthy_habits,
    held_out_again,
    held_out_healthy,
    held_out_planted,
    planted_layers,
    planted_precision,
    planted_wiring,
)

ALL = (
    healthy_classics,
    healthy_habits,
    planted_layers,
    planted_precision,
    planted_wiring,
    held_out_healthy,
    held_out_planted,
    held_out_again,
)
