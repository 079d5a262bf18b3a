"""streamlearn: a daemon that never stops learning.

    from streamlearn import Event, Learner, Settings

`Learner` and `Settings` are the very objects that the worker uses. They are imported at first use, so that
the command line answers before torch is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamlearn.durable import Learner
    from streamlearn.events import Event, Prediction, Rejection
    from streamlearn.settings import Settings

__version__ = "0.1.0"
__all__ = ["Event", "Learner", "Prediction", "Rejection", "Settings", "__version__"]

_HOME = {
    "Event": "events",
    "Learner": "durable",
    "Prediction": "events",
    "Rejection": "events",
    "Settings": "settings",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'streamlearn' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"streamlearn.{_HOME[name]}"), name)
