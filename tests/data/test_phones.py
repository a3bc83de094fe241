"""TIMIT's phone inventories and their folding, against the table of Lee & Hon as Kaldi prints it."""

import pytest

from asr_exp.core.errors import UserError
from asr_exp.data.phones import INVENTORIES, fold

# 61 48 39, a phone a line (q: deleted).
TABLE = """
aa aa aa; ae ae ae; ah ah ah; ao ao aa; aw aw aw; ax ax ah; ax-h ax ah; axr er er; ay ay ay; b b b; bcl vcl
sil; ch ch ch; d d d; dcl vcl sil; dh dh dh; dx dx dx; eh eh eh; el el l; em m m; en en n; eng ng ng; epi
epi sil; er er er; ey ey ey; f f f; g g g; gcl vcl sil; h# sil sil; hh hh hh; hv hh hh; ih ih ih; ix ix ih;
iy iy iy; jh jh jh; k k k; kcl cl sil; l l l; m m m; n n n; ng ng ng; nx n n; ow ow ow; oy oy oy; p p p; pau
sil sil; pcl cl sil; q; r r r; s s s; sh sh sh; t t t; tcl cl sil; th th th; uh uh uh; uw uw uw; ux uw uw; v
v v; w w w; y y y; z z z; zh zh sh
"""
ROWS = [row.split() for row in TABLE.split(";")]


def test_inventories_are_those_of_the_table():
    assert [len(INVENTORIES[name]) for name in ("timit61", "timit48", "timit39")] == [61, 48, 39]
    assert set(INVENTORIES["timit61"]) == {row[0] for row in ROWS}
    assert set(INVENTORIES["timit48"]) == {row[1] for row in ROWS if len(row) == 3}
    assert set(INVENTORIES["timit39"]) == {row[2] for row in ROWS if len(row) == 3}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_phone_folds_as_in_the_table(row):
    phone, to_48, to_39 = row if len(row) == 3 else (row[0], "", "")
    assert fold(phone, "timit61", "timit48") == to_48
    assert fold(phone, "timit61", "timit39") == to_39
    assert fold(to_48, "timit48", "timit39") == to_39


def test_a_sentence_folds_phone_by_phone():
    assert fold("h# q ao l ix gcl g pau bcl h#", "timit61", "timit39") == "sil aa l ih sil g sil sil sil"


def test_folding_to_the_same_inventory_changes_nothing_and_unknown_tokens_stay():
    assert fold("h# q ao", "timit61", "timit61") == "h# q ao"
    assert fold("sil [UNK] ix", "timit48", "timit39") == "sil [UNK] ih"


def test_unfolding_and_unknown_inventories_are_refused():
    with pytest.raises(UserError, match="cannot be unfolded"):
        fold("sil", "timit39", "timit61")
    with pytest.raises(UserError, match="timit93.*Did you mean 'timit39'"):
        fold("sil", "timit61", "timit93")
