"""Values as they are at the call, and on the worker their protos. Knows no queue and no writer."""
