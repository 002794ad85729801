import pytest

from minigpts.errors import UserError
from minigpts.importing import spm
from tests.unit.corpus.readers.files import SPM_PIECES, sentencepiece_model

UNIGRAM, NORMALIZED = {3: 1}, {2: b"a charsmap", 4: 0}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokenizer.model"


# What sentencepiece 0.2.3 gives for the same file
@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("the heart", ["▁the", "▁heart"]),
        ("the    heart", ["▁the", "▁▁▁", "▁heart"]),
        ("  h\n      the heart é", ["▁▁", "▁h", "<0x0A>", "▁▁▁▁", "▁", "▁the", "▁heart", "▁", "<0xC3>", "<0xA9>"]),
        ("       ", ["▁▁▁▁", "▁▁▁▁"]),
        ("🫀", ["▁", "<0xF0>", "<0x9F>", "<0xAB>", "<0x80>"]),
        ("earth", ["▁", "ea", "rt", "h"]),
        ("", []),
    ],
)
def test_pieces_are_sentencepieces(path, text, pieces):
    path.write_bytes(sentencepiece_model())
    tokenizer = spm.read(path, add_bos=False, add_eos=False)
    encoding = tokenizer.encode(text)
    assert encoding.tokens == pieces
    assert encoding.ids == [[piece[0] for piece in SPM_PIECES].index(piece) for piece in pieces]
    assert tokenizer.decode(encoding.ids) == text


@pytest.mark.parametrize(
    ("around", "tokens"), [((True, False), ["<s>", "▁t"]), ((True, True), ["<s>", "▁t", "</s>"]), ((False, True), ["▁t", "</s>"])]
)
def test_begin_and_end_tokens_stand_where_asked_for_and_are_skipped_in_decoding(path, around, tokens):
    path.write_bytes(sentencepiece_model())
    tokenizer = spm.read(path, *around)
    assert tokenizer.encode("t").tokens == tokens
    assert tokenizer.encode("t", "t").tokens == tokens * 2
    assert tokenizer.decode(tokenizer.encode("t").ids) == "t"


def test_a_model_without_a_dummy_prefix_gets_none(path):
    path.write_bytes(sentencepiece_model(normalizer={3: 0, 4: 0}))
    tokenizer = spm.read(path, add_bos=False, add_eos=False)
    assert tokenizer.encode("the heart").tokens == ["t", "he", "▁heart"]
    assert tokenizer.decode(tokenizer.encode(" the heart").ids) == " the heart"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a SentencePiece model, or not a whole one"),
        (b"{}", "not a SentencePiece model, or not a whole one"),
        (sentencepiece_model()[:-3], "not a SentencePiece model, or not a whole one"),
        (sentencepiece_model(trainer=UNIGRAM), "its pieces are not BPE's, which isn't supported; name a revision or folder"),
        (sentencepiece_model(trainer={}), "its pieces are not BPE's"),
        (sentencepiece_model(normalizer=NORMALIZED), "it normalizes text"),
        (sentencepiece_model(normalizer={}), "it normalizes text"),
        (sentencepiece_model(normalizer={4: 0, 5: 0}), "it keeps spaces as they are"),
        (sentencepiece_model([*SPM_PIECES, ("heart", 0.0, 4)]), "it has pieces given by hand"),
    ],
)
def test_what_cannot_be_carried_over_is_refused(path, content, message):
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"tokenizer\.model: {message}"):
        spm.read(path, add_bos=True, add_eos=False)
