"""What the objects are called: names, head nouns, general words, plurals and articles.

A word has two readings. It *fits* an object if nobody would object to the word, and it *might fit* if a generous
reader could take it so. An expression may use a word only if it fits the target, and counts as a rival every other
object that the word might fit.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import yaml

from bench.assets import asset

FOLDER = asset("datasets", "refmoji")
NOVEL_PERCENT = 20  # share of the head nouns that never appear in training


@dataclass(frozen=True)
class Entry:
    """One drawable thing. `general` are words for its kind, the most specific first."""

    id: str
    name: str
    head: str
    general: tuple[str, ...]
    tags: frozenset[str]
    subgroup: str
    size: float
    person: bool
    recoloured: bool
    poseless: bool
    role: str | None = None  # "male pilot" where `name` is "pilot"

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Every word that fits, from the usual name to the most general."""
        names = [self.name, self.head, *([self.role] if self.role else []), *self.general]
        return tuple(dict.fromkeys(names))


class Lexicon:
    """All entries of the sprite packs, by id, by head noun and by subgroup."""

    def __init__(self, table: Mapping[str, Any], index: list[dict[str, Any]]) -> None:
        self.table = table
        self.entries = {item["id"]: _entry(item, table) for item in index}
        self.by_head: dict[str, list[Entry]] = {}
        self.by_subgroup: dict[str, list[Entry]] = {}
        for entry in self.entries.values():
            self.by_head.setdefault(entry.head, []).append(entry)
            self.by_subgroup.setdefault(entry.subgroup, []).append(entry)
        self.heads = tuple(sorted(self.by_head))
        self._confusable = {frozenset(pair) for pair in table["confusable"]}
        self._memo: dict[tuple[str, str], bool] = {}

    def __getitem__(self, sprite: str) -> Entry:
        return self.entries[sprite]

    @staticmethod
    def fits(entry: Entry, word: str) -> bool:
        """The strict reading: nobody would object."""
        return word in entry.words

    def might_fit(self, entry: Entry, word: str) -> bool:
        """The loose reading: the word fits, or keywords, related subgroups, shared or similar names suggest it."""
        key = (entry.id, word)
        if key not in self._memo:
            self._memo[key] = self._might_fit(entry, word)
        return self._memo[key]

    def _might_fit(self, entry: Entry, word: str) -> bool:
        if word in entry.words or word in entry.tags or entry.subgroup in self.table["loosely"].get(word, ()):
            return True
        last = word.split()[-1]
        names = {entry.name, entry.head}
        if any(name.split()[-1] == last or last == name or f" {word} " in f" {name} " for name in names):
            return True
        return any(frozenset((word, other)) in self._confusable for other in names)

    def novel(self, head: str) -> bool:
        """Whether a head noun is held out of training at the levels medium and full (chosen by hash)."""
        return zlib.crc32(head.encode()) % 100 < NOVEL_PERCENT

    def plural(self, noun: str) -> str:
        """The plural of a noun phrase: `cup of coffee` -> `cups of coffee`."""
        if noun in self.table["always_plural"]:
            return noun
        if noun in self.table["irregular_plurals"]:
            return self.table["irregular_plurals"][noun]
        main, tail = _split_tail(noun)
        before, _, last = main.rpartition(" ")
        prefix = before + " " if before else ""
        return prefix + self._plural_word(last) + tail

    def _plural_word(self, word: str) -> str:
        irregular = self.table["irregular_plurals"]
        if word in irregular:
            return irregular[word]
        if word in self.table["always_plural"]:
            return word
        if re.search(r"(s|x|z|ch|sh)$", word):
            return word + "es"
        return word[:-1] + "ies" if re.search(r"[^aeiou]y$", word) else word + "s"

    def article(self, phrase: str, noun: str) -> str:
        """`phrase` with the indefinite article that suits it; `noun` is the noun in it, for plural-only words."""
        if noun in self.table["no_article"]:
            return phrase
        if self.is_plural(noun) or self.is_mass(noun):
            return f"some {phrase}"
        vowel = phrase[0].lower() in "aeiou" and not phrase.startswith(tuple(self.table["consonant_sound"]))
        return f"{'an' if vowel or phrase.startswith(tuple(self.table['vowel_sound'])) else 'a'} {phrase}"

    def definite(self, phrase: str, noun: str) -> str:
        """`phrase` with "the", except for proper names."""
        return phrase if noun == phrase and noun in self.table["no_article"] else f"the {phrase}"

    def is_mass(self, noun: str) -> bool:
        """Whether the noun has no plural of its own (`bread`)."""
        return noun in self.table["mass_nouns"]

    def is_plural(self, noun: str) -> bool:
        """Whether the noun is plural in form for a single object (`scissors`)."""
        return noun in self.table["always_plural"]


def _split_tail(noun: str) -> tuple[str, str]:
    """`man with a beard` -> (`man`, ` with a beard`): the part that takes the plural, and the rest."""
    found = re.search(r" (of|with|in|on|for|from|that|walking|standing|running|dancing|doing)\b", noun)
    return (noun[: found.start()], noun[found.start() :]) if found else (noun, "")


def _entry(item: Mapping[str, Any], table: Mapping[str, Any]) -> Entry:
    sprite, subgroup = item["id"], item["sub"]
    person = table["people"].get(sprite)
    role = None
    if person:
        name = head = person["noun"]
        gender = person["as"]
        general = tuple(dict.fromkeys((gender, "person")))
        if person.get("role"):
            role = f"{'female' if gender == 'woman' else 'male'} {name}"
        elif gender != "person":
            head = gender
    else:
        name = table["names"].get(sprite, item["label"])
        head = table["heads"].get(sprite, name)
        general = tuple(table["hypernyms_of"].get(sprite, table["hypernyms"].get(subgroup, ())))
    recoloured = subgroup in table["recoloured_subgroups"] or sprite in table["recoloured"]
    return Entry(
        id=sprite, name=name, head=head, general=tuple(word for word in general if word not in (name, head)),
        tags=frozenset(item["tags"]), subgroup=subgroup, size=table["sizes"].get(subgroup, table["default_size"]),
        person=person is not None, recoloured=recoloured and sprite not in table["not_recoloured"],
        poseless=sprite in table["poseless"], role=role,
    )  # fmt: skip


@lru_cache(maxsize=1)
def lexicon() -> Lexicon:
    """The lexicon of the sprites that come with the project (read once)."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    table = yaml.load((FOLDER / "lexicon.yaml").read_text(encoding="utf-8"), loader)
    with zipfile.ZipFile(FOLDER / "fluent3d.zip") as pack:
        return Lexicon(table, json.loads(pack.read("index.json")))
