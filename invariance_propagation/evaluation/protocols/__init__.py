"""Names the evaluation protocols.

Each module of this folder holds one protocol: its data, its numbers, its measure and its
scores. To add a protocol, write such a module and add a line to the table.
"""

import importlib

from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.protocols.base import Protocol

# Name -> module and the name in it. A module is imported when it is asked for.
PROTOCOLS = {
    "knn": ".knn:KNN",
    "linear": ".linear:LINEAR",
    "semi": ".semi:SEMI",
    "semi_1pct": ".semi:SEMI_1PCT",
    "svm": ".svm:SVM",
    "voc07_svm": ".voc:VOC07_SVM",
    "places": ".places:PLACES",
    "transfer": ".transfer:TRANSFER",
}


def find_protocol(name: str) -> Protocol:
    """Finds a protocol.

    Args:
      name: a name of the table, or 'MODULE:NAME' for a protocol of your own.

    Raises:
      UserError: there is no such protocol.
    """
    module, _, attribute = PROTOCOLS.get(name, name).partition(":")
    if not attribute:
        known = ", ".join(PROTOCOLS)
        raise UserError(
            f"--config.protocols={name}: choose from {known}, or write MODULE:NAME for "
            "one of your own"
        )
    try:
        return getattr(importlib.import_module(module, __name__), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"--config.protocols={name}: {error}") from error
