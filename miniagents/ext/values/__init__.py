"""Values as JSON, and back as what they were, type included.

* `writing`: `encode`, what can be written and how
* `reading`: `decode`, which trusts nothing that it reads
* `classes`: `register`, and how classes are found by their names
* `atoms`: types without parts that JSON does not know, such as datetime
* `immutable`: which values need no copy

The format: plain data is what it is in JSON. What JSON has no type for is an object whose first key begins with `$`, as
in `miniagents.canonical`; a key of the value itself that begins with `$` is written with one more `$`.

    {"$uuid": "..."}, {"$bytes": "<base64>"}, {"$tuple": [1, 2]}, {"$enum": ["app.Color", "RED"]}
    {"$class": "app.Person", "name": "Ada", "born": {"$date": "1815-12-10"}, "$unset": {"nick": null}}

Reading finds classes by name among those that are known here; it never imports or runs what the data names.
"""

from miniagents.ext.values.classes import UnreadableValueError, register
from miniagents.ext.values.immutable import is_immutable
from miniagents.ext.values.reading import decode
from miniagents.ext.values.writing import encode

__all__ = ["UnreadableValueError", "decode", "encode", "is_immutable", "register"]
