"""The promise layer under another documented name: the same objects as in `promising`."""

from promising import *  # noqa: F403
from promising import __all__ as __all__
