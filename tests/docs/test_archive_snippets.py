"""What "Send and take archives" says of its listings."""

from __future__ import annotations

import gzip
import io
import sqlite3
import tarfile
import zipfile
from contextlib import closing
from functools import partial
from pathlib import Path

import archives
import pytest

from tsstream import extract_tar
from tsstream.testing import open_client

PICTURE = bytes(range(256)) * 100


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "photos"
    (folder / "thumbnails").mkdir(parents=True)
    (folder / "one.jpeg").write_bytes(PICTURE)
    (folder / "thumbnails" / "one.jpeg").write_bytes(PICTURE[:100])
    database = tmp_path / "photos.sqlite"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE photos (name TEXT)")
        connection.execute("INSERT INTO photos VALUES ('one.jpeg')")
        connection.commit()
    monkeypatch.setattr(archives, "FOLDER", folder)
    monkeypatch.setattr(archives, "DATABASE", database)
    # All of the machine's disks are nobody's promise here.
    monkeypatch.setattr(archives, "extract_tar", partial(extract_tar, sync=lambda: None))
    return folder


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()


async def test_a_download_that_resumes(folder: Path) -> None:
    async with open_client(archives.app) as client:
        whole = await client.get("/photos.tar")
        assert int(whole.headers["content-length"]) == len(whole.content)
        assert whole.headers["content-disposition"] == 'attachment; filename="photos.tar"'
        resume = {"range": "bytes=10000-", "if-range": whole.headers["etag"]}
        rest = await client.get("/photos.tar", headers=resume)
        assert (rest.status_code, rest.content) == (206, whole.content[10000:])
        (folder / "two.jpeg").write_bytes(PICTURE)
        again = await client.get("/photos.tar", headers=resume)
    assert again.status_code == 200
    assert "photos/two.jpeg" in names(again.content)


async def test_kinds_of_archives() -> None:
    async with open_client(archives.app) as client:
        compressed = await client.get("/photos.tar.gz")
        zipped = await client.get("/photos.zip")
    assert "content-length" not in compressed.headers
    assert names(compressed.content) == [
        "photos",
        "photos/one.jpeg",
        "photos/thumbnails",
        "photos/thumbnails/one.jpeg",
    ]
    assert int(zipped.headers["content-length"]) == len(zipped.content)
    with zipfile.ZipFile(io.BytesIO(zipped.content)) as archive:
        assert archive.read("photos/one.jpeg") == PICTURE


async def test_what_goes_in() -> None:
    async with open_client(archives.app) as client:
        response = await client.get("/originals.tar")
    assert names(response.content) == ["originals", "originals/one.jpeg", "index.sqlite"]


async def test_a_dump_of_a_database() -> None:
    async with open_client(archives.app) as client:
        response = await client.get("/photos.sql.gz")
    assert (
        "INSERT INTO \"photos\" VALUES('one.jpeg');" in gzip.decompress(response.content).decode()
    )


async def test_an_archive_takes_the_place_of_the_directory(folder: Path) -> None:
    async with open_client(archives.app) as client:
        backup = (await client.get("/photos.tar.gz")).content
        (folder / "one.jpeg").write_bytes(b"spoilt")
        (folder / "two.jpeg").touch()
        response = await client.put("/photos.tar.gz", content=backup)
    assert response.json() == {"members": 4, "bytes": len(PICTURE) + 100}
    assert (folder / "one.jpeg").read_bytes() == PICTURE
    assert not (folder / "two.jpeg").exists()


async def test_what_is_no_whole_archive_changes_nothing(folder: Path) -> None:
    async with open_client(archives.app) as client:
        backup = (await client.get("/photos.tar.gz")).content
        other = (await client.get("/originals.tar")).content
        (folder / "one.jpeg").write_bytes(b"newer")
        for content in (backup[:-1], other, b"no archive"):
            response = await client.put("/photos.tar.gz", content=content)
            assert response.status_code == 400
    assert (folder / "one.jpeg").read_bytes() == b"newer"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["photos", "photos.sqlite"]
