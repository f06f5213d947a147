"""Checkpoints: no changed byte goes unnoticed."""

import pytest

from gan_runner.storage import checkpoint

STRIDE = 1021  # bytes between those that are changed; a prime: no field of a file comes along as often


def test_a_byte_changed_anywhere_in_a_checkpoint_is_noticed(small_run):
    directory = small_run / "checkpoints"
    last = directory / "last.pt"
    content = last.read_bytes()
    for offset in range(0, len(content), STRIDE):
        last.write_bytes(content[:offset] + bytes([content[offset] ^ 0x10]) + content[offset + 1 :])
        with pytest.raises(checkpoint.DamagedError):
            checkpoint.load(last)
    saved, warning = checkpoint.load_newest(directory)
    assert saved is not None
    assert saved["step"] == 2
    assert warning is not None
    assert "last.pt is damaged" in warning


@pytest.mark.slow
def test_no_changed_byte_goes_unnoticed_where_the_digest_is_lost(small_run):
    path = small_run / "checkpoints/last.pt"
    whole, content = path.read_bytes(), checkpoint.load(path)
    path.with_name("last.pt.sha256").unlink()
    for at in range(0, len(whole), STRIDE):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            found = checkpoint.load(path)
        except checkpoint.DamagedError:
            continue
        assert repr(found) == repr(content)  # the byte is between the entries, where nothing is
