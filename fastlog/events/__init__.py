"""From an event to a file: the queue, its worker, and the sinks.

Knows event files and threads. Knows no tensor, no summary and no writer.
"""
