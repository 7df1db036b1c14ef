"""The messages of BuildKit's interface: `.proto` files of our own, and the Python modules made of them.

`tools/generate_proto.py` makes the modules; `tests/packaging/test_generated_proto.py` makes them again and
compares. They live in a descriptor pool of their own (`pool.py`), so that a program that embeds anyarch may
load other modules of the same interface.
"""
