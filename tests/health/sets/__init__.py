"""Trainings with a planted fault, and healthy ones, to hold the rules against."""
