"""What a forked child is told."""

import os

from fastlog.common import forks


class Thing:
    def __init__(self, name: str, said: list[str]) -> None:
        self.name, self.said = name, said

    def become_child(self) -> None:
        self.said.append(self.name)


def in_child(said: list[str]) -> list[str]:
    """What was said in a child; what it says here is seen by ``said``."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, ",".join(said).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        text = file.read()
    os.waitpid(child, 0)
    return text.split(",") if text else []


def test_objects_become_children_in_the_order_of_registering_and_only_in_the_child() -> None:
    said: list[str] = []
    things = [Thing(name, said) for name in "abc"]
    for thing in (things[2], things[0], things[1]):
        forks.register(thing)
    assert in_child(said) == ["c", "a", "b"]
    assert said == []


def test_an_object_that_is_gone_is_not_told() -> None:
    said: list[str] = []
    kept, gone = Thing("kept", said), Thing("gone", said)
    forks.register(gone)
    forks.register(kept)
    del gone
    assert in_child(said) == ["kept"]


def test_modules_are_told_before_objects(monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(forks, "_callbacks", [lambda: said.append("module")])
    thing = Thing("object", said)
    forks.register(thing)
    assert in_child(said) == ["module", "object"]
