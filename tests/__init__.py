"""Tests of igb, which mirror its modules; what they need most is imported here, as quickly as the command does."""

from igb._imports import quick_imports

with quick_imports():
    import igb.experiment  # noqa: F401
