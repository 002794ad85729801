"""A category's document."""

from __future__ import annotations

from minigpts.corpus.domains import icd10cm


def tabular(codes: str = "") -> bytes:
    return f"""<ICD10CM.tabular><version>2001</version>
    <chapter><name>1</name><section id="A00-A09"><diag><name>A00</name><desc>Spoon  disease</desc>
      <includes><note>bent spoon (A01.-)</note></includes>
      <excludes1><note>fork disease (B00.0, B01.1-)</note><note>knife disease (sharp) NOS</note></excludes1>
      <codeFirst><note>, if applicable, rust (T81.44-)</note></codeFirst>
      <useAdditionalCode><note>code to identify:</note><note>metal (Z16.-)</note></useAdditionalCode>
      <diag><name>A00.0</name><desc>Spoon disease of hand</desc><inclusionTerm><note>Hand spoon</note></inclusionTerm>
        <diag><name>A00.01</name><desc>Spoon disease of right hand</desc></diag></diag>
      <diag><name>A00.9</name><desc>Spoon disease, unspecified</desc></diag>{codes}</diag></section></chapter>
    <chapter><name>20</name><section id="V00-V09"><diag><name>V00</name><desc>Hit by a tram</desc></diag></section></chapter>
    </ICD10CM.tabular>""".encode()


def test_a_document_reads_its_notes_and_codes_without_sides_and_references():
    (document,) = icd10cm.documents(tabular())
    assert document.text.splitlines() == [
        "Spoon disease (ICD-10-CM A00)",
        "Includes: bent spoon",
        "Excludes: fork disease; knife disease (sharp) NOS",
        "Code first, if applicable, rust",
        "Use additional code to identify: metal",
        "A00.0 Spoon disease of hand (Hand spoon)",
    ]
    assert document.group == "icd-10-cm:A00-A09"
    assert icd10cm.version(tabular()) == "2001"


def test_deep_codes_give_way_when_room_is_short():
    deep = "".join(
        f"<diag><name>A00.1{i}</name><desc>Spoon disease number {i} {'of many words ' * 12}</desc></diag>" for i in range(9)
    )
    (document,) = icd10cm.documents(tabular(f"<diag><name>A00.1</name><desc>Spoon disease, numbered</desc>{deep}</diag>"))
    assert len(document.text) <= icd10cm.MAX_CHARACTERS
    assert document.text.endswith("A00.1 Spoon disease, numbered")
