import threading
import warnings

from soapworks.images.pillow_warnings import pillow_quiet


def warn_as(module):
    warnings.warn_explicit("remark", UserWarning, "file.py", 1, module=module)


def test_only_pillow_is_silenced_and_only_meanwhile():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pillow_quiet():
            warn_as("PIL.TiffImagePlugin")
            assert not caught
            warn_as("other")
        assert len(caught) == 1
        warn_as("PIL.TiffImagePlugin")
    assert len(caught) == 2


def test_overlapping_readers_leave_no_filter_behind():
    filters = list(warnings.filters)
    inside, leave = threading.Event(), threading.Event()

    def reader():
        with pillow_quiet():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=reader)
    with pillow_quiet():
        thread.start()
        assert inside.wait(10)
    warn_as("PIL.Image")  # an error, were the filter gone with the first reader to leave
    leave.set()
    thread.join()
    assert list(warnings.filters) == filters
