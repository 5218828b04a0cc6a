"""What all tests of this house share."""

import pytest

from deeppose_tf import data, engine


def plain_batches(stream, batch_size, workers):
    """As `loader.batches`, in this process."""
    for start in range(0, len(stream), batch_size):
        samples = [stream[position] for position in range(start, min(start + batch_size, len(stream)))]
        for error in (sample for sample in samples if isinstance(sample, Exception)):
            raise error
        yield data.stack(samples)


@pytest.fixture(autouse=True)
def no_loader_processes(monkeypatch):
    """They would take most of a small run's time: test_loader.py has them, and programs in processes of their own."""
    monkeypatch.setattr(engine, "batches", plain_batches)
