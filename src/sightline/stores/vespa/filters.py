"""A filter turned into YQL: exact, or a little too wide where texts are ordered beyond their first eight bytes."""

from collections.abc import Sequence

from sightline.filters.where import And, Compare, Exists, In, Match, Node, Not, Or, kind_of
from sightline.stores.vespa.longs import exists_long, is_whole, order_long, rank, value_long, word_long

EVERYTHING, NOTHING = "true", "false"

_OPERATORS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


def condition(node: Node) -> str:
    """The YQL that finds all that a filter matches; where `is_exact` says no, some more."""
    return _condition(node, is_wide=True)


def is_exact(node: Node) -> bool:
    """Whether the YQL of a filter finds nothing else."""
    match node:
        case And(parts) | Or(parts):
            return all(is_exact(part) for part in parts)
        case Not(part):
            return is_exact(part)
        case Compare(_, _, str() as bound):
            return is_whole(bound)
    return True


def _condition(node: Node, *, is_wide: bool) -> str:
    """Too wide or too narrow where exact is impossible: below a "not", what is too narrow makes it too wide."""
    match node:
        case And(parts):
            return both([_condition(part, is_wide=is_wide) for part in parts])
        case Or(parts):
            return either([_condition(part, is_wide=is_wide) for part in parts])
        case Not(part):
            return negation(_condition(part, is_wide=not is_wide))
        case In(field, values):
            return one_of("tokens", [value_long(field, value) for value in values])
        case Exists(field):
            return one_of("tokens", [exists_long(field)])
        case Match(words):
            return both([one_of("tokens", [word_long(word)]) for word in words])
        case Compare(field, operator, bound):
            sign = _OPERATORS[operator]
            if isinstance(bound, str) and not is_whole(bound):
                sign = sign[0] + "=" if is_wide else sign[0]
            field_long = order_long(field, kind_of(bound))
            return f"ordered contains sameElement(which = {field_long}L, amount {sign} {rank(bound)}L)"


def one_of(field: str, values: Sequence[int]) -> str:
    """That a field, or an element of it, is one of some integers."""
    return f"{field} in ({', '.join(f'{value}L' for value in values)})" if values else NOTHING


def both(parts: Sequence[str]) -> str:
    """That all parts hold."""
    if NOTHING in parts:
        return NOTHING
    return _joined(" and ", [part for part in parts if part != EVERYTHING], EVERYTHING)


def either(parts: Sequence[str]) -> str:
    """That some part holds."""
    if EVERYTHING in parts:
        return EVERYTHING
    return _joined(" or ", [part for part in parts if part != NOTHING], NOTHING)


def negation(part: str) -> str:
    """That a part does not hold; Vespa takes away from something, so from everything."""
    opposite = {EVERYTHING: NOTHING, NOTHING: EVERYTHING}
    return opposite.get(part) or f"({EVERYTHING} and !({part}))"


def after(parts: Sequence[int], *, or_equal: bool) -> str:
    """That a record's places come after some others, compared from the first on."""
    names = [f"place{at}" for at in range(len(parts))]
    text = EVERYTHING if or_equal else NOTHING
    for name, value in reversed(list(zip(names, parts, strict=True))):
        text = either([f"{name} > {value}L", both([f"{name} = {value}L", text])])
    return text


def _joined(word: str, parts: Sequence[str], none: str) -> str:
    if len(parts) < 2:
        return parts[0] if parts else none
    return f"({word.join(parts)})"
