"""A query turned into its nearest records: few are all compared, many are searched through the graph."""

import contextlib
from collections.abc import Sequence
from typing import Any

import psycopg

from sightline.filters.documents import load_payload
from sightline.stores.pgvector.connections import Connection
from sightline.stores.pgvector.filters import Condition
from sightline.stores.pgvector.schema import Table
from sightline.types import Hit

WIDTHS = (40, 64, 100, 160, 250, 400, 630, 1000)
"""Of hnsw.ef_search, from pgvector's default to its limit."""
UNTUNED_WIDTH = 400
"""Until it is measured: pgvector's 40 finds little more than half of the neighbours of a text query."""
WIDTH = "width"
"""The kind of note that keeps the width, its key and its field."""

_MOST_OF_GRAPH = 1000  # hits of one scan of the graph before 0.8, and enough for anybody after it
_SURE = 3  # times as many as a few, because statistics of JSON are rough
_SPARE = 2  # candidates per hit: ranked in half precision, they change places near the end

_FEW = """
WITH few AS MATERIALIZED (SELECT id, embedding <#> %s::vector AS distance FROM {{table}} WHERE {where} LIMIT %s)
SELECT id, uri, payload, -distance, (SELECT count(*) FROM few)
FROM (SELECT * FROM few ORDER BY distance, id LIMIT %s) AS best JOIN {{table}} USING (id) ORDER BY distance, id
"""
# Adding 0 hides the order from the planner, which would take the graph.
_ALL = """
SELECT id, uri, payload, -distance FROM (
    SELECT id, uri, payload, (embedding <#> %s::vector) + 0 AS distance FROM {{table}} WHERE {where}
    ORDER BY distance, id LIMIT %s
) AS best ORDER BY distance, id
"""
_GRAPH = """
SELECT id, uri, payload, -distance FROM (
    SELECT id, uri, payload, embedding <#> %s::vector AS distance FROM (
        SELECT id, uri, payload, embedding FROM {{table}} WHERE {where} ORDER BY {{nearness}} LIMIT %s
    ) AS near ORDER BY distance, id LIMIT %s
) AS best ORDER BY distance, id
"""
_SETTINGS = """
SELECT set_config('enable_seqscan', 'off', true), set_config('hnsw.ef_search', greatest(%s, coalesce(
    %s, (SELECT (entry::json -> 1 ->> 'width')::int FROM {notes} WHERE kind = 'width' LIMIT 1), %s))::text, true)
"""
_ITERATIVE = "SELECT set_config('hnsw.iterative_scan', 'strict_order', true)"


def nearest_of_few(
    connection: Connection, table: Table, query: str, limit: int, condition: Condition
) -> list[Hit] | None:
    """The exact nearest records, if no more than a few fulfil the condition."""
    statement = table.query(_FEW.format(where=condition.sql))
    rows = connection.execute(statement, (query, *condition.parameters, table.few + 1, limit)).fetchall()
    return None if rows and rows[0][4] > table.few else _hits(rows)


def nearest_of_all(connection: Connection, table: Table, query: str, limit: int, condition: Condition) -> list[Hit]:
    """The exact nearest records, from a scan of the table."""
    rows = connection.execute(
        table.query(_ALL.format(where=condition.sql)), (query, *condition.parameters, limit)
    ).fetchall()
    return _hits(rows)


def nearest_by_graph(
    connection: Connection, table: Table, query: str, limit: int, condition: Condition, width: int | None
) -> list[Hit]:
    """The nearest records that the graph finds, fewer than `limit` where it does not find as many.

    `width` is the noted one when it is None. Ranked by the full vectors. Runs in one round trip.
    """
    candidates = min(_SPARE * limit, _MOST_OF_GRAPH) if table.is_half else limit
    parameters = (query, *condition.parameters, query, candidates, limit)
    # The filter takes away from what the graph finds, so it needs the widest; from 0.8 on the scan then goes on.
    least = _MOST_OF_GRAPH if condition.parameters else candidates
    with _pipeline(connection), connection.transaction():
        connection.execute(table.query(_SETTINGS), (least, width, UNTUNED_WIDTH))
        if table.is_iterative:
            connection.execute(_ITERATIVE)
        rows = connection.execute(table.query(_GRAPH.format(where=condition.sql)), parameters).fetchall()
    return _hits(rows)


def looks_large(connection: Connection, table: Table, condition: Condition) -> bool:
    """Whether the planner, by its statistics, is sure that many records fulfil the condition; costs no look at them."""
    statement = table.query(f"EXPLAIN (FORMAT JSON) SELECT FROM {{table}} WHERE {condition.sql}")
    (((plan,),),) = connection.execute(statement, condition.parameters)
    return bool(plan["Plan"]["Plan Rows"] > _SURE * table.few)


def reaches(limit: int) -> bool:
    """Whether a graph can give so many hits."""
    return limit <= _MOST_OF_GRAPH


def _pipeline(connection: Connection) -> contextlib.AbstractContextManager[object]:
    return connection.pipeline() if psycopg.Pipeline.is_supported() else contextlib.nullcontext()


def _hits(rows: Sequence[tuple[Any, ...]]) -> list[Hit]:
    return [Hit(name, uri, max(-1.0, min(1.0, score)), load_payload(payload)) for name, uri, payload, score, *_ in rows]
