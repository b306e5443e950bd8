"""The leaves of another tool's file; each is mapped, has no effect here, or could not be mapped: none vanishes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from whet.errors import RecipeError
from whet.recipe.foreign import CHANGES_RESULT, EXPLAINED, RENAMED
from whet.recipe.yaml_tree import ListNode, MapNode, Node, Scalar, natural_value

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_OFF: tuple[object, ...] = (None, False, "", "none", "no", "false", "null", [])
_UNKNOWN = "whet does not know this key"
_EMPTY = "it is empty"
_NO_ROWS = "train.jsonl"
_LARGEST = 1e300
"""no setting is near it, and a float can hold what is below"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One value of the foreign file."""

    value: Any
    """a scalar, or a list of scalars"""
    place: str
    """`file:line`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where one leaf of the foreign file went."""

    key: str
    """dotted, as in the foreign file"""
    value: Any
    whet_key: str = ""
    """empty when it was not mapped"""
    whet_value: Any = None
    reason: str = ""
    """why it has no effect or could not be mapped; of a mapped one, what changed on the way"""


def leaves_of(node: Node, prefix: str = "") -> dict[str, Leaf]:
    """Dotted key -> leaf; a list of plain values is one leaf, a list of sections is counted from 0."""
    if isinstance(node, Scalar):
        return {prefix: Leaf(value=_scalar(node), place=node.place)}
    if isinstance(node, ListNode) and all(isinstance(item, Scalar) for item in node.items):
        return {prefix: Leaf(value=[_scalar(item) for item in node.items], place=node.place)}
    if isinstance(node, MapNode) and not node.entries:
        return {prefix: Leaf(value=None, place=node.place)}
    named = node.entries.items() if isinstance(node, MapNode) else enumerate(node.items)
    return {
        key: leaf
        for part, child in named
        for key, leaf in leaves_of(child, f"{prefix}.{part}" if prefix else str(part)).items()
    }


def _scalar(node: Node) -> Any:
    assert isinstance(node, Scalar)
    return node.text if node.is_quoted else natural_value(node.text)


class Sheet:
    """Reads leaves with their types and keeps the account of them; `tree` grows into the recipe.

    `map`, `drop` and `refuse` do nothing when the file does not have the key or an earlier rule has taken it.
    """

    def __init__(self, leaves: Mapping[str, Leaf]) -> None:
        self._leaves = leaves
        self._done: set[str] = set()
        self.tree: dict[str, Any] = {}
        self.mapped: list[Entry] = []
        self.no_effect: list[Entry] = []
        self.unmapped: list[Entry] = []
        self.notes: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._leaves

    def keys(self, prefix: str = "") -> list[str]:
        """Keys that begin with `prefix`, in the order of the file."""
        return [key for key in self._leaves if key.startswith(prefix)]

    def num_sections(self, key: str) -> int:
        """Of a list of sections; 0 where the file has none. RecipeError where it is one section instead of a list."""
        numbers = {name.split(".")[1]: name for name in self.keys(f"{key}.")}
        places = {str(number) for number in range(len(numbers))}
        if other := next((name for number, name in numbers.items() if number not in places), None):
            place = self._leaves[other].place
            raise RecipeError("must be a list of sections", where=f"{place} {key}", mend=f"write `- ` before {other}")
        return len(numbers)

    def is_on(self, key: str) -> bool:
        """Whether the file has the key with a value that asks for something."""
        value = self._leaves[key].value if key in self._leaves else None
        return (value.strip().lower() if isinstance(value, str) else value) not in _OFF

    def text(self, key: str, default: str = "") -> str:
        """The value as text; `default` where the key is absent or empty."""
        value = self._leaves[key].value if key in self._leaves else None
        return default if value is None else str(value)

    def texts(self, key: str) -> list[str]:
        """A list, or text with commas, as a list of texts."""
        value = self._leaves[key].value if key in self._leaves else None
        if value is None:
            return []
        listed = value if isinstance(value, list) else str(value).split(",")
        return [str(item).strip() for item in listed]

    def number(self, key: str, default: float) -> float:
        """The value as a number; text such as `2e-4` counts as one. RecipeError for anything else."""
        value = self._leaves[key].value if key in self._leaves else None
        if value is None:
            return default
        read = natural_value(value.strip()) if isinstance(value, str) else value
        if isinstance(read, bool) or not isinstance(read, int | float) or not abs(read) < _LARGEST:
            raise RecipeError(f"must be a number (found {value!r})", where=f"{self._leaves[key].place} {key}")
        return read

    def whole(self, key: str, default: int) -> int:
        """The value as a whole number."""
        read = self.number(key, default)
        if not float(read).is_integer():
            raise RecipeError(f"must be a whole number (found {read})", where=f"{self._leaves[key].place} {key}")
        return int(read)

    def boolean(self, key: str, default: bool = False) -> bool:
        """The value as true or false, in YAML 1.1's words too."""
        word = self.text(key).strip().lower()
        if not word:
            return default
        if word not in _TRUE + _FALSE:
            raise RecipeError(f"must be true or false (found {word})", where=f"{self._leaves[key].place} {key}")
        return word in _TRUE

    def map(self, key: str, whet_key: str, value: Any, reason: str = "") -> None:
        """The leaf becomes `whet_key` = `value`."""
        if self._is_free(key):
            self._note(self.mapped, key, whet_key=whet_key, whet_value=value, reason=reason)
            self.put(whet_key, value)

    def map_number(self, key: str, whet_key: str, default: float | None) -> None:
        """A number under another name; `default` is the tool's own, taken where the file is silent."""
        self._map_read(key, whet_key, default, self.number)

    def map_whole(self, key: str, whet_key: str, default: int | None) -> None:
        """A whole number under another name."""
        self._map_read(key, whet_key, default, self.whole)

    def map_text(self, key: str, whet_key: str) -> None:
        """Text under another name; an empty one is left to whet's default."""
        if self.is_on(key):
            self.map(key, whet_key, self.text(key))
        else:
            self.drop(key, _EMPTY)

    def map_model(self, key: str) -> None:
        """The base model; a file without one gets whet's default, and a note that says so."""
        if self.is_on(key):
            self.map_text(key, "model.id")
        else:
            self.drop(key, _EMPTY)
            self.notes.append("the file names no model: set model.id")

    def map_rows(self, key: str, whet_key: str, source: str) -> None:
        """A source of rows; a file without one gets the name of a file, and a note that says so."""
        if source:
            self.map(key, whet_key, source)
            self.put(whet_key, source)
        else:
            self.drop(key, _EMPTY)
            self.notes.append(f"the file names no rows: set {whet_key} (now {_NO_ROWS})")
            self.put(whet_key, _NO_ROWS)

    def _map_read(self, key: str, whet_key: str, default: Any, read: Callable[[str, Any], Any]) -> None:
        if key in self._leaves and self._leaves[key].value is not None:
            self.map(key, whet_key, read(key, 0))
            return
        self.drop(key, _EMPTY)
        if default is not None:
            self.default(whet_key, default)

    def default(self, whet_key: str, value: Any) -> None:
        """A setting that the file leaves to its tool's default, which is not whet's."""
        self.notes.append(f"{whet_key} = {value}: the tool's default, as the file does not say")
        self.put(whet_key, value)

    def put(self, whet_key: str, value: Any) -> None:
        """Set a key of the recipe."""
        path = [int(part) if part.isdecimal() else part for part in whet_key.split(".")]
        node: Any = self.tree
        for part, following in pairwise(path):
            empty: Any = [] if isinstance(following, int) else {}
            if isinstance(node, list):
                node.extend({} for _ in range(len(node), int(part) + 1))
                node = node[int(part)]
            else:
                node = node.setdefault(part, empty)
        node[path[-1]] = value

    def drop(self, key: str, reason: str) -> None:
        """The leaf has no effect here."""
        if self._is_free(key):
            self._note(self.no_effect, key, reason=reason)

    def refuse(self, key: str, reason: str) -> None:
        """The leaf asks for something that is not done here."""
        if self._is_free(key):
            self._note(self.unmapped, key, reason=reason)

    def account_rest(self) -> None:
        """Every leaf that no rule has taken: known without effect, or could not be mapped."""
        for key in self._leaves:
            if key in self._done:
                continue
            leaf = key.rsplit(".", 1)[-1]
            reason = EXPLAINED.get(key) or EXPLAINED.get(leaf)
            changes = key in CHANGES_RESULT or leaf in CHANGES_RESULT
            if reason is not None and not (changes and self.is_on(key)):
                self.drop(key, reason.replace("`", ""))
            elif reason is not None:
                self.refuse(key, reason.replace("`", ""))
            elif self._leaves[key].value in (None, []):
                self.drop(key, _EMPTY)
            else:
                home = RENAMED.get(key) or RENAMED.get(leaf)
                self.refuse(key, f"set {home} yourself" if home else _UNKNOWN)

    def _is_free(self, key: str) -> bool:
        return key in self._leaves and key not in self._done

    def _note(self, entries: list[Entry], key: str, **details: Any) -> None:
        self._done.add(key)
        entries.append(Entry(key=key, value=self._leaves[key].value, **details))
