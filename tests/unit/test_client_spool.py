from pathlib import Path

from faceid_metering.spool import Batch, SpoolFile


def batch(number: int, body: bytes = b"call") -> Batch:
    return Batch("sender", number, 1, body)


def test_batches_that_follow_each_other_are_delivered_as_one(tmp_path: Path) -> None:
    spool = SpoolFile(tmp_path, 10_000, fsync=False)
    assert spool.put([batch(1, b"a"), batch(2, b"b"), batch(9, b"c")])
    first = spool.next_batch(0, 100)
    assert first is not None
    assert (first.first_number, first.calls, first.body) == (1, 2, b"ab")
    spool.delete(first)
    assert spool.calls == 1
    spool.close()


def test_a_full_spool_takes_nothing_until_the_oldest_are_dropped(tmp_path: Path) -> None:
    spool = SpoolFile(tmp_path, 450, fsync=False)
    assert spool.put([batch(1), batch(2), batch(3), batch(4)])
    assert not spool.put([batch(5, b"x" * 100)])
    assert spool.drop_oldest(batch(5, b"x" * 100)) == 2
    assert spool.put([batch(5, b"x" * 100)])
    assert spool.calls == 3
    spool.close()


def test_a_file_is_adopted_once_its_client_is_gone(tmp_path: Path) -> None:
    gone, heir = SpoolFile(tmp_path, 10_000, fsync=False), SpoolFile(tmp_path, 10_000, fsync=False)
    assert gone.put([batch(1), batch(2)])
    assert heir.adopt() == 0
    gone.close()
    assert heir.adopt() == 2
    assert heir.adopt() == 0
    assert len(list(tmp_path.glob("*.spool"))) == 1
    heir.close()
