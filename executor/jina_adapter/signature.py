"""The Executor's signature, in which each setting is a keyword."""

import inspect
from collections.abc import Callable

from executor.settings import Settings


def keywords_from_settings(init: Callable[..., None]) -> Callable[..., None]:
    """Shows the settings as keywords in the signature of `init`, which takes them as `**settings`.

    Jina reads the signature to tell known `with:` keys from unknown ones, and notebooks read it for completion.
    """
    signature = inspect.signature(init)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    catch_all = [p for p in signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    settings = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.annotation)
        for name, field in Settings.model_fields.items()
    ]
    init.__signature__ = signature.replace(parameters=[*own, *settings, *catch_all])  # type: ignore[attr-defined]
    return init
