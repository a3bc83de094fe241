"""Phone inventories of TIMIT, and the folding 61 -> 48 -> 39 of Lee & Hon (1989)."""

from collections.abc import Mapping

from asr_exp.core.errors import UserError, nearest

# 61 -> 48: a phone that is not listed is itself; q (the glottal stop) is deleted.
_TO_48 = {
    "ax-h": "ax",
    "axr": "er",
    "em": "m",
    "eng": "ng",
    "hv": "hh",
    "nx": "n",
    "ux": "uw",
    "bcl": "vcl",
    "dcl": "vcl",
    "gcl": "vcl",
    "kcl": "cl",
    "pcl": "cl",
    "tcl": "cl",
    "h#": "sil",
    "pau": "sil",
    "q": "",
}
# 48 -> 39, likewise.
_TO_39 = {
    "ao": "aa",
    "ax": "ah",
    "cl": "sil",
    "el": "l",
    "en": "n",
    "epi": "sil",
    "ix": "ih",
    "vcl": "sil",
    "zh": "sh",
}

_SYMBOLS = (
    "aa ae ah ao aw ax ax-h axr ay b bcl ch d dcl dh dx eh el em en eng epi er ey f g gcl h# hh hv ih ix iy"
    " jh k kcl l m n ng nx ow oy p pau pcl q r s sh t tcl th uh uw ux v w y z zh"
)


def _folded(phones: tuple[str, ...], fold_one: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted({fold_one.get(p, p) for p in phones} - {""}))


_TIMIT61 = tuple(_SYMBOLS.split())
_TIMIT48 = _folded(_TIMIT61, _TO_48)
INVENTORIES: dict[str, tuple[str, ...]] = {
    "timit61": _TIMIT61,
    "timit48": _TIMIT48,
    "timit39": _folded(_TIMIT48, _TO_39),
}
_STEPS = {"timit61": _TO_48, "timit48": _TO_39}
_ORDER = tuple(INVENTORIES)


def fold(phones: str, source: str, target: str) -> str:
    """Fold phones, separated by spaces, from one inventory to a smaller one.

    Neighbours that folding makes equal are not merged (sil sil), as in Kaldi. A symbol that is no phone of
    `source`, such as the unknown token of a hypothesis, stays as it is. Raises UserError for an inventory
    that does not exist, and for a target that is larger than the source.
    """
    for name in (source, target):
        if name not in INVENTORIES:
            raise UserError(
                f"{name!r} is not a phone inventory.{nearest(name, INVENTORIES)} There are:"
                f" {', '.join(INVENTORIES)}."
            )
    first, last = _ORDER.index(source), _ORDER.index(target)
    if first > last:
        raise UserError(
            f"phones of {source} cannot be unfolded to {target}; "
            "tokenizer.score_inventory must be no larger than tokenizer.inventory."
        )
    symbols = phones.split()
    for name in _ORDER[first:last]:
        symbols = [folded for s in symbols if (folded := _STEPS[name].get(s, s))]
    return " ".join(symbols)
