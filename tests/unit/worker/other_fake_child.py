"""The scripted child under another name: a stage has a program of its own, and each program its own spare."""

from core import child
from tests.unit.worker.fake_child import main

if __name__ == "__main__":
    child.run(main)
