"""examples/etl: what it says to other nodes, and what it understands; tables, without a server."""

from __future__ import annotations

import json
import os
import resource
import ssl
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import trustme
from etl_kit import build, streaming, whole

from examples.etl.channels import find_local
from examples.etl.contract import (
    parse_pipeline,
    put_url,
    retry_delay,
    says_delivered,
    source_url,
)
from examples.etl.server import ETLServer
from examples.etl.settings import Settings
from tsstream import HTTPError

TARGET = "http://target:51081"


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("/ais/bucket/obj", "ais%2Fbucket%2Fobj"),
        ("/ais%2F@ns%2Fb%2Fo", "ais%2F@ns%2Fb%2Fo"),
        (
            quote("/ais/@ns/mybucket/path with ñ/obj"),
            "ais%2F@ns%2Fmybucket%2Fpath%20with%20%C3%B1%2Fobj",
        ),
        ("/v1/objects/b/o", "v1%2Fobjects%2Fb%2Fo"),
        ("/b/%ff%00", "b%2F%FF%00"),  # not UTF-8
        ("/b/a%2520b", "b%2Fa%2520b"),
        ("/b//o/../p", "b%2F%2Fo%2F..%2Fp"),
    ],
)
def test_the_path_of_an_object_is_kept_byte_for_byte(path: str, url: str) -> None:  # ET-3
    assert source_url(TARGET, path.encode()) == f"{TARGET}/{url}"


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        (None, ("", "")),
        ("", ("", "")),
        ("  \t ", ("", "")),
        ("http://a:1", ("http://a:1", "")),
        ("  http://a:1  ", ("http://a:1", "")),
        ("http://a:1,http://b:2", ("http://a:1", "http://b:2")),
        (
            "http://a:1 , http://b:2 ,http://c:3/x?y=1",
            ("http://a:1", "http://b:2,http://c:3/x?y=1"),
        ),
        ("https://a/v1/x,http://b", ("https://a/v1/x", "http://b")),
    ],
)
def test_a_pipeline_is_its_first_url_and_the_rest(  # ET-32
    value: str | None, parsed: tuple[str, str]
) -> None:
    assert parse_pipeline(value) == parsed


@pytest.mark.parametrize(
    "value",
    [",", ",,,", " , , ", ",http://a", "http://a,", "http://a,,http://b", "http://a, ,http://b"],
)
def test_an_empty_entry_makes_a_pipeline_invalid(value: str) -> None:  # ET-32
    with pytest.raises(HTTPError, match=r"^400 Invalid pipeline: there is an empty entry"):
        parse_pipeline(value)


@pytest.mark.parametrize(
    "value",
    [
        "a:1",
        "file:///etc/passwd",
        "http://",
        "http://a:x",
        "http://a:0",
        "http://a:99999",
        "ftp://a",
        "http://[::1",
        "http://a/b c",
        "http://a/\xf1",
        "http://\xf1",
        "http://a/b\r\nx: y",
        "http://a/b\tc",
        "http://a..b",
        f"http://{'a' * 70}/",
        "http://a,http://b/b c",
        "http://a,http://\xf1",
    ],
)
def test_an_entry_that_is_no_url_of_a_node_is_invalid(value: str) -> None:  # ET-32
    with pytest.raises(HTTPError, match=r"^400 Invalid pipeline: '.+' is not the URL of a node"):
        parse_pipeline(value)


@pytest.mark.parametrize(
    ("node", "target", "url"),
    [
        ("http://b:2", TARGET, "http://b:2/bck/@x/a%20%C3%B1"),
        ("http://b:2/", TARGET, "http://b:2/bck/@x/a%20%C3%B1"),
        ("http://b:2?xid=7", TARGET, "http://b:2/bck/@x/a%20%C3%B1?xid=7"),
        ("http://b:2/v1/o%2Fp?x=1", TARGET, "http://b:2/v1/o%2Fp?x=1"),
        ("http://b:2/o?x=1", f"{TARGET}/etl/secret", "http://b:2/etl/secret/o?x=1"),
        ("https://b:2/o", TARGET, "https://b:2/o"),
    ],
)
def test_the_url_of_a_direct_put(node: str, target: str, url: str) -> None:  # ET-33
    assert put_url(node, target, "bck/@x/a ñ", "") == url


@pytest.mark.parametrize("query", ["", "?etl_args=old", "?a=1&etl_args=old&b=%2F", "?etl_args="])
@pytest.mark.parametrize("etl_args", ["upper", '{"a": [1, "x&y=z"], "ñ": "+ %20"}'])
def test_the_arguments_are_replaced_and_never_doubled(query: str, etl_args: str) -> None:  # ET-33
    url = urlsplit(put_url(f"http://b:2{query}", TARGET, "o", etl_args))
    values = parse_qs(url.query)
    assert values.pop("etl_args") == [etl_args]
    assert values == ({"a": ["1"], "b": ["/"]} if "a=1" in query else {})
    if etl_args.startswith("{"):
        assert json.loads(etl_args)


def test_an_argument_of_the_url_stays_if_there_is_no_other() -> None:
    assert put_url("http://b:2?etl_args=x", TARGET, "o", "") == "http://b:2/o?etl_args=x"


@pytest.mark.parametrize(
    ("status", "headers", "delivered"),
    [
        (204, {"ais-direct-put-length": "12"}, True),
        (204, {}, True),
        (200, {"content-length": "0"}, True),
        (200, {"content-length": "3"}, False),
        (200, {"transfer-encoding": "chunked"}, False),  # ET-35: an empty object, perhaps
        (200, {}, False),
        (201, {"content-length": "0"}, False),
        (404, {"content-length": "0"}, False),
        (503, {}, False),
    ],
)
def test_which_replies_say_delivered(  # ET-34
    status: int, headers: dict[str, str], delivered: bool
) -> None:
    assert says_delivered(status, headers) == delivered


def test_delays_double_up_to_half_a_minute() -> None:  # ET-39
    assert [retry_delay(n) for n in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]
    assert retry_delay(1000) == 30


def test_a_server_has_one_of_the_two_methods() -> None:  # ET-11
    with pytest.raises(TypeError, match=r"neither transform\(\) nor transform_stream\(\)"):
        build(ETLServer)


def test_a_server_needs_a_target(monkeypatch: pytest.MonkeyPatch) -> None:  # ET-12
    monkeypatch.delenv("AIS_TARGET_URL", raising=False)
    with pytest.raises(OSError, match="AIS_TARGET_URL is not set"):
        whole(lambda data, path, etl_args: b"")()


def test_the_limit_of_open_files_is_raised_to_the_hard_one() -> None:  # ET-13
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        build(streaming(lambda reader, path, etl_args: iter(())))
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_limits_have_aistores_defaults_and_names() -> None:  # ET-51, ET-25
    settings = Settings.from_env({"AIS_TARGET_URL": TARGET})
    assert (settings.max_connections, settings.max_idle, settings.idle_timeout) == (256, 128, 30)
    assert settings.max_transforms == 2 * (os.cpu_count() or 1)
    assert settings.put_retries == 3
    env = {"MAX_CONN": "8", "MAX_KEEPALIVE_CONN": "4", "KEEPALIVE_EXPIRY": "2.5"}
    settings = Settings.from_env({"AIS_TARGET_URL": TARGET, **env})
    assert (settings.max_connections, settings.max_idle, settings.idle_timeout) == (8, 4, 2.5)


@pytest.mark.parametrize("value", ["many", "0", "-1", "1.5"])
def test_a_wrong_limit_is_named(value: str) -> None:
    with pytest.raises(ValueError, match="MAX_TRANSFORMS: "):
        Settings.from_env({"AIS_TARGET_URL": TARGET, "MAX_TRANSFORMS": value})


@pytest.mark.parametrize("url", ["rubbish", "localhost:51081", "ftp://a", "http://", "http://a:x"])
def test_a_target_without_a_url_is_named(url: str) -> None:  # ET-12
    with pytest.raises(ValueError, match=r"AIS_TARGET_URL: '.+' is not the URL of a node"):
        Settings.from_env({"AIS_TARGET_URL": url})


@pytest.mark.parametrize("name", ["AIS_CLIENT_CA", "AIS_CRT", "AIS_CRT_KEY"])
def test_a_certificate_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:  # ET-50
    with pytest.raises(ValueError, match=f"{name}: there is no file '.+none.pem'"):
        Settings.from_env({"AIS_TARGET_URL": TARGET, name: str(tmp_path / "none.pem")})


def test_the_ssl_context_is_that_of_the_environment(tmp_path: Path) -> None:  # ET-50
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = authority.issue_cert("client")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "chain.pem")
    env = {"AIS_TARGET_URL": TARGET, "AIS_CLIENT_CA": str(tmp_path / "ca.pem")}
    context = Settings.from_env(env).ssl_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert [cert["issuer"] for cert in context.get_ca_certs()]
    env |= {"AIS_CRT": str(tmp_path / "chain.pem"), "AIS_CRT_KEY": str(tmp_path / "key.pem")}
    Settings.from_env(env).ssl_context()
    with pytest.raises(OSError):  # noqa: PT011 (that of ssl: the key is missing)
        Settings.from_env({**env, "AIS_CRT_KEY": ""}).ssl_context()
    skipped = Settings.from_env({**env, "AIS_SKIP_VERIFY_CRT": "true"}).ssl_context()
    assert (skipped.verify_mode, skipped.check_hostname) == (ssl.CERT_NONE, False)


def test_the_token_is_a_bearer() -> None:  # ET-50
    settings = Settings(target_url=TARGET, token="abc")
    assert settings.auth_headers == {"authorization": "Bearer abc"}
    assert Settings(target_url=TARGET).auth_headers == {}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory of objects, with ways out of it."""
    root = tmp_path / "mountpath"
    (root / "in").mkdir(parents=True)
    (root / "in" / "obj ñ").write_bytes(b"data")
    (root / "inner").symlink_to(root / "in")
    (root / "outer").symlink_to(tmp_path)
    (tmp_path / "mountpath-2").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    return root


@pytest.mark.parametrize(
    ("fqn", "found"),
    [
        ("{root}/in/obj ñ", "in/obj ñ"),
        ("{root}/in/obj%20%C3%B1", "in/obj ñ"),
        ("%2F{root}/in/./x/../obj ñ", "in/obj ñ"),
        ("///{root}//in//obj ñ", "in/obj ñ"),
        ("{root}/inner/obj ñ", "in/obj ñ"),
    ],
)
def test_a_local_path_is_normal_and_absolute(root: Path, fqn: str, found: str) -> None:  # ET-5
    assert find_local(fqn.format(root=root), [Path("/nowhere"), root]) == root / found


@pytest.mark.parametrize("name", ["not", "not/there", "in", "in/obj ñ/x", "fifo", "x" * 300])
def test_a_local_object_is_a_file(root: Path, name: str) -> None:  # ET-19
    os.mkfifo(root / "fifo")
    with pytest.raises(FileNotFoundError) as caught:
        find_local(f"{root}/{name}", [root])
    assert caught.value.filename == str(root / name)


@pytest.mark.parametrize(
    "fqn",
    [
        "/etc/hostname",
        "{root}/../secret",
        "{root}/in/../../secret",
        "{root}/%2e%2e/secret",
        "{root}%2F..%2Fsecret",
        "{root}/outer/secret",
        "{root}-2/obj",
        "{root}/in/a%00b",
        "in/obj",
        "/",
    ],
)
def test_no_path_leads_out_of_the_roots(root: Path, fqn: str) -> None:  # ET-6
    with pytest.raises(HTTPError, match=r"^403 .*ETL_FQN_ROOTS"):
        find_local(fqn.format(root=root), [root])


def test_without_roots_there_is_no_local_object(root: Path) -> None:  # ET-6
    assert Settings(target_url=TARGET).fqn_roots == ()
    with pytest.raises(HTTPError, match=r"^403"):
        find_local(f"{root}/in/obj ñ", [])
