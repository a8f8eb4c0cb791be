"""The statements of ``results/paper/claims.yml``: what they compare, and the parameters that they count."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal, NamedTuple

from ..notebooks.cells import left_by
from .paper import listed as listed
from .paper import paper_table
from .tables import MARGIN

Relation = Literal["above", "not below", "close"]


class Pair(NamedTuple):
    """Two rows of a table, of which a statement says that the first is better in ``metric``."""

    metric: str
    better: str
    worse: str


def select(table: str, where: Mapping[str, list[str]]) -> list[dict[str, str]]:
    """Rows of a paper's table whose columns hold one of the values given for them."""
    return [row for row in paper_table(table) if all(row[column] in values for column, values in where.items())]


def pairs(item: Mapping[str, Any]) -> Iterator[Pair]:
    """The comparisons that an ordering of ``claims.yml`` makes."""
    for part in item["compare"]:
        for better in select(part["table"], part["better"]):
            for worse in select(part["table"], part["than"]):
                if all(better[column] == worse[column] for column in part["same"]):
                    yield from (Pair(metric, better["row"], worse["row"]) for metric in part["metrics"])


def printed(pair: Pair) -> float | None:
    """The difference between the paper's two values, ``None`` where the text copy has lost one."""
    values = {row["row"]: row[pair.metric] for row in paper_table(pair.better.split("/")[0])}
    if not values[pair.better] or not values[pair.worse]:
        return None
    return round(float(values[pair.better]) - float(values[pair.worse]), 6)


def agrees(relation: Relation, low: float, high: float) -> bool | None:
    """Whether a difference between ``low`` and ``high`` has the relation, ``None`` where it may or may not."""
    if relation == "above":
        return True if low > 0 else False if high < 0 else None
    above = True if low >= -MARGIN else False if high < -MARGIN else None
    if relation == "not below" or above is not True:
        return above
    return True if high <= MARGIN else False if low > MARGIN else None


@cache
def counted() -> Mapping[str, int]:
    """Trainable parameters of the rows of Table 4, as its page counts them: on ResNet-101 with 10 classes."""
    found: Mapping[str, int] = left_by("table4", "evidence")["ours"].to_dict()
    return found


def table4_parameters(row: str) -> dict[str, float]:
    """Parameters of a row of Table 4, all and beyond those of LPF, whose filter has none; the share is in per cent."""
    plain, counts = counted()["lpf-tri-3"], counted()[row.removeprefix("table4/")]
    more = counts - plain
    return {"parameters": counts, "pooling_parameters": more, "pooling_share": 100 * more / plain}
