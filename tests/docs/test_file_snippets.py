"""What "Send files" says of its listings."""

from __future__ import annotations

from pathlib import Path

import files
import pytest

from tsstream.testing import open_client


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a.png").write_bytes(b"picture")
    (tmp_path / "report.pdf").write_bytes(b"report")
    monkeypatch.chdir(tmp_path)


async def test_a_file_its_parts_and_nothing() -> None:
    async with open_client(files.app) as client:
        response = await client.get("/report")
        assert response.content == b"report"
        assert response.headers["content-type"] == "application/pdf"
        assert (await client.get("/report", headers={"range": "bytes=2-3"})).content == b"po"
        headers = {"if-none-match": response.headers["etag"]}
        assert (await client.get("/report", headers=headers)).status_code == 304


async def test_names_from_outside() -> None:
    async with open_client(files.app) as client:
        assert (await client.get("/media/a.png")).content == b"picture"
        assert (await client.get("/media/../report.pdf")).status_code == 404
        response = await client.get("/download/a.png")
        assert response.headers["content-disposition"] == 'attachment; filename="a.png"'
        response = await client.get("/assets/a.png")
        assert response.headers["cache-control"].startswith("public")
