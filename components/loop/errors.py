# SPDX-License-Identifier: Apache-2.0
"""What people are told when something failed: one sentence. It knows errors and no step."""

from __future__ import annotations

USER_ERRORS = (ValueError, OSError)
"""What a user can mend: told in one sentence (ConnectionError and a full disk are OSErrors)."""


class StepError(RuntimeError):
    """A step of the loop failed; the text is one sentence and says where the log is."""


def sentence(error: BaseException) -> str:
    """An error as one line for people: its own sentence where it has one, else with its type."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename:
        return (
            f"{error.filename}: {error.strerror.lower()}; look at the path, who may write there "
            "and the space that is left"
        )
    if isinstance(error, (*USER_ERRORS, StepError)) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
