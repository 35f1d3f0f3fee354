# SPDX-License-Identifier: Apache-2.0
"""A JSON file as a frozen value: read with a sentence for what is wrong with it, written by rename.

It knows no record's names; a run's and the registry's are `components.registry.records`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from components.layout.files import write_json
from model.config import first_fault

T = TypeVar("T")


def read_value(kind: type[T], path: Path, remedy: str) -> T:
    """A JSON file as a value of a type.

    Args:
        kind: a record, or what else pydantic can validate.
        path: a file that is there.
        remedy: what a person can do about a damaged file.

    Raises:
        ValueError: the file does not hold such a value; one sentence.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is damaged: {first_fault(error)}; {remedy}") from error


class Record(BaseModel):
    """JSON values under declared names; frozen, and a name that is not declared is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    remedy: ClassVar[str] = "restore it"

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in a file; ValueError if it is damaged."""
        return read_value(cls, path, cls.remedy)

    def write(self, path: Path) -> None:
        """Writes the record by a rename, keys sorted."""
        write_json(path, self.plain())

    def plain(self) -> dict[str, Any]:
        """The record in JSON's own types."""
        return self.model_dump(mode="json")


class RunRecord(Record):
    """One of the records of a day's run.

    Attributes:
        file: its name in the run's folder.
        step: the step that writes it.
    """

    file: ClassVar[str]
    step: ClassVar[str]
