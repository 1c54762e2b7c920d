"""Certificates from files: what cannot serve is named, what changed is loaded once, what is broken changes nothing."""

import logging
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.tls import Postponed, TlsError, TlsFiles, TlsWatch
from tests.certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> TlsFiles:
    files = TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key", authority.certificate)
    authority.sign("server", files.cert, files.key)
    return files


def test_files_that_fit_are_taken(files: TlsFiles) -> None:
    assert files.context().verify_mode is ssl.CERT_REQUIRED
    assert TlsFiles(files.cert, files.key).context().verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda files: files.key.unlink(), r"tls\.key does not exist"),
        (lambda files: files.cert.write_text("odd"), r"no pair of certificate and key"),
        (lambda files: Authority(files.cert.parent).sign("x", files.cert.with_name("x"), files.key), r"no pair"),
        (lambda files: files.client_ca.write_text("odd"), r"authority\.pem holds no certificates"),
    ],
)
def test_files_that_do_not_are_named(files: TlsFiles, spoil: Callable[[TlsFiles], object], said: str) -> None:
    spoil(files)
    with pytest.raises(TlsError, match=said):
        files.context()


def test_a_new_pair_is_loaded_once(files: TlsFiles, authority: Authority) -> None:
    loaded: list[bytes] = []
    watch = TlsWatch(files, lambda: loaded.append(files.cert.read_bytes()))
    assert not watch.look()
    authority.sign("server", files.cert, files.key)
    assert watch.look() and not watch.look()
    assert loaded == [files.cert.read_bytes()]


def test_half_a_change_waits_for_the_other_half(
    files: TlsFiles, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded: list[None] = []
    watch = TlsWatch(files, lambda: loaded.append(None))
    new_cert, new_key = tmp_path / "new.crt", tmp_path / "new.key"
    authority.sign("server", new_cert, new_key)
    with caplog.at_level(logging.INFO):
        new_cert.replace(files.cert)
        assert not watch.look() and not watch.look()
        assert [r.event for r in caplog.records] == ["tls_refused"]  # type: ignore[attr-defined]  # given with `extra`
        new_key.replace(files.key)
        assert watch.look()
    assert len(loaded) == 1


def test_a_folder_swapped_behind_a_link_is_seen(files: TlsFiles, authority: Authority, tmp_path: Path) -> None:
    """As Kubernetes changes a mounted secret."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        authority.sign("server", tmp_path / name / "tls.crt", tmp_path / name / "tls.key")
    link = tmp_path / "data"
    link.symlink_to("one")
    watch = TlsWatch(TlsFiles(link / "tls.crt", link / "tls.key"), lambda: None)
    (tmp_path / "other").symlink_to("two")
    (tmp_path / "other").replace(link)
    assert watch.look()


def test_a_pair_that_cannot_be_served_yet_is_loaded_once_it_can(
    files: TlsFiles, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """New processes would take the place of old ones that serve."""
    asked: list[int] = []

    def reload() -> None:
        asked.append(len(asked))
        if len(asked) < 3:
            raise Postponed("new processes could not serve yet: there is no registry")

    watch = TlsWatch(files, reload)
    authority.sign("server", files.cert, files.key)
    with caplog.at_level(logging.INFO):
        assert not watch.look() and not watch.look()
        assert watch.look() and not watch.look()
    assert asked == [0, 1, 2]
    events = [record.event for record in caplog.records]  # type: ignore[attr-defined]  # given with `extra`
    assert events == ["tls_postponed", "tls_loaded"]
    assert "the old certificate stays for now: new processes could not serve yet: there is no registry" in caplog.text
