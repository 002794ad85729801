"""Which values say that there is none, in every column of every format."""

from __future__ import annotations

import math

# What pandas, Excel and MySQL write where a value is missing and no other text means. "None", "NA" and "null" are left alone:
# each may be a text, a choice or a group (sodium, Namibia, a keyword).
WRITTEN = frozenset({"nan", "NaN", "NaT", "<NA>", "#N/A", "\\N"})


def missing(value: object) -> bool:
    """Whether a value is missing: None (parquet's and pandas' nulls arrive as it), NaN, blank text or text of ``WRITTEN``."""
    if isinstance(value, str):
        text = value.strip()
        return not text or text in WRITTEN
    return value is None or (isinstance(value, float) and math.isnan(value))
