"""Models of members: publishing what a job made, taking in what was trained elsewhere, listing, giving out, putting away.

keeping    files into the store, and the next version of a model; what a plan keeps
intake     a model brought along: uploads checked and made a version
weights    what a safetensors file must be, byte by byte, before it is kept
reading    lists, one version, its files
whole      all files of a version as one zip
"""

from __future__ import annotations

from services.model_versions.intake import MOST_FILES, create
from services.model_versions.keeping import NewFile, kept, publish, refuse_one_too_many
from services.model_versions.reading import artifacts, delete, file_of, get_for, list_for, names_of, of_job
from services.model_versions.whole import folder_name, zipped

__all__ = [
    "MOST_FILES", "NewFile", "artifacts", "create", "delete", "file_of", "folder_name", "get_for", "kept",
    "list_for", "names_of", "of_job", "publish", "refuse_one_too_many", "zipped",
]  # fmt: skip
