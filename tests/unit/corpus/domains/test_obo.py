"""The reader of OBO files and its cleaning."""

from __future__ import annotations

import pytest

from minigpts.corpus.domains import obo
from tests.unit.corpus.domains.test_hpo import OBO


def test_parse_reads_escapes_scopes_and_parents_and_skips_what_is_obsolete():
    terms, version = obo.parse(OBO)
    bent = terms["HP:0000011"]
    assert bent.definition == 'A lasting curve of the handle ("bow") seen from the side.'
    assert bent.comment == "The curve is rarely painful."  # the next sentence speaks to curators, and the last may lean on it
    assert bent.synonyms == ["Curved spoon", "Spoon, bent"]
    assert terms["HP:0000012"].parents == ["HP:0000010", "HP:0000020"]
    assert terms["HP:0000014"].definition == "Reduced length of the handle, compared with others."
    assert "HP:0000099" not in terms and "part_of" not in terms
    assert version == "hp/releases/2001-02-03"


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a sac-like dilatation .", "A sac-like dilatation."),
        ("An abnormality of the ethmoid bone", "An abnormality of the ethmoid bone."),
        ("Attached by the mesentery,", "Attached by the mesentery."),
        ("Glycol, propylene glycol..", "Glycol, propylene glycol."),
        ('Leads to a false joint (or "false joint").', 'Leads to a false joint (or "false joint").'),
        ("Tissue [NCIT:C1234]. It grows (HP:0000001, HP:0000002).", "Tissue. It grows."),
        ("Reduced uptake of [18F]-FDG (a tracer).", "Reduced uptake of [18F]-FDG (a tracer)."),
        ("Lipids rise. See PMID 206 for images. They fall.", "Lipids rise."),
        ('It is common. {xref="PMID:1"}', "It is common."),
        ("See PMID:1.", ""),
    ],
)
def test_prose_is_clean_and_keeps_the_words(raw, clean):
    assert obo.prose(raw, obo._CITATION) == clean


def test_a_term_that_names_no_parent_has_none():
    terms, _ = obo.parse("format-version: 1.2\n\n[Term]\nid: HP:1\nis_a: \nis_a: HP:2 ! Two\n")
    assert terms["HP:1"].parents == ["HP:2"]
