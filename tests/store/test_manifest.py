"""Manifests: one encoding each, and no manifest leads out of its tree."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from cas.model.manifest import (
    DIRECTORY,
    MAGIC,
    BadManifest,
    Digest,
    Entry,
    Kind,
    Manifest,
    file_node,
    symlink_node,
)
from cas.model.union import drop_repeated, union

D = "0" * 64
FILE = b"f 1 " + D.encode()

_NAMES = st.binary(min_size=1, max_size=8).filter(
    lambda name: name not in (b".", b"..") and not set(name) & {0, ord("/")}
)
_LEAVES = st.one_of(
    st.builds(
        lambda size, x: file_node(Digest(D), size, executable=x),
        st.integers(0, 1 << 62),
        st.booleans(),
    ),
    st.binary(min_size=1, max_size=20).filter(lambda b: 0 not in b).map(symlink_node),
    st.just(DIRECTORY),
)


@st.composite
def _manifests(draw: st.DrawFn) -> Manifest:
    nodes: dict[bytes, bytes] = {}
    for _ in range(draw(st.integers(0, 8))):
        parents = [b"", *(path for path, node in nodes.items() if node == DIRECTORY)]
        parent = draw(st.sampled_from(parents))
        path = parent + b"/" + draw(_NAMES) if parent else draw(_NAMES)
        nodes.setdefault(path, draw(_LEAVES))
    return Manifest.of(nodes)


@given(_manifests())
def test_manifest_round_trips(manifest: Manifest) -> None:
    decoded = Manifest.decode(manifest.encode())

    assert decoded == manifest
    assert list(decoded.nodes) == sorted(manifest.nodes)


@given(st.binary(max_size=200))
def test_manifest_bytes_are_canonical_or_refused(data: bytes) -> None:
    for candidate in (data, MAGIC + b"\0" + data):
        try:
            manifest = Manifest.decode(candidate)
        except BadManifest:
            continue
        assert manifest.encode() == candidate


@pytest.mark.parametrize(
    "fields",
    [
        [b"/a", FILE],
        [b"", DIRECTORY],
        [b"..", DIRECTORY],
        [b".", DIRECTORY],
        [b"a", DIRECTORY, b"a/..", DIRECTORY],
        [b"a", DIRECTORY, b"a//b", FILE],
        [b"a", DIRECTORY, b"a/", FILE],
        [b"a", FILE, b"a/b", FILE],
        [b"a", b"l /etc", b"a/b", FILE],
        [b"a/b", FILE],
        [b"b", FILE, b"a", FILE],
        [b"a", FILE, b"a", FILE],
        [b"a" * 256, FILE],
        [b"a", b"f 01 " + D.encode()],
        [b"a", b"f -1 " + D.encode()],
        [b"a", b"f 1 " + D.encode().replace(b"0", b"A")],
        [b"a", b"f 1 00"],
        [b"a", b"l "],
        [b"a", b"c 0 0"],
        [b"a", b"d\n"],
        [b"a"],
    ],
)
def test_hostile_manifest_is_refused(fields: list[bytes]) -> None:
    with pytest.raises(BadManifest):
        Manifest.decode(b"\0".join([MAGIC, *fields]) + b"\0")


def test_truncated_or_extended_manifest_is_refused() -> None:
    good = Manifest({b"a": DIRECTORY, b"a/b": FILE}).encode()
    Manifest.decode(good)
    for bad in [good[:length] for length in range(len(good))] + [good + b"\0", good + b"x"]:
        if bad != MAGIC + b"\0" and bad != MAGIC + b"\0a\0d\0":  # shorter, and valid
            with pytest.raises(BadManifest):
                Manifest.decode(bad)


def test_manifest_entries_match_its_nodes() -> None:
    manifest = Manifest.of(
        {b"d": DIRECTORY, b"d/x": file_node(Digest(D), 5, executable=True), b"l": b"l  t "}
    )

    assert list(manifest) == [
        Entry(b"d", Kind.DIRECTORY),
        Entry(b"d/x", Kind.FILE, executable=True, size=5, digest=Digest(D)),
        Entry(b"l", Kind.SYMLINK, target=b" t "),
    ]


def test_union_hides_whole_directories_and_merges_others() -> None:
    low = Manifest({b"a": DIRECTORY, b"a/x": FILE, b"b": DIRECTORY, b"b/x": FILE, b"b.c": FILE})
    high = Manifest({b"a": DIRECTORY, b"a/y": FILE, b"b": b"l a"})

    merged = union([low, high])

    assert merged == {
        b"a": (DIRECTORY, 1),
        b"a/x": (FILE, 0),
        b"a/y": (FILE, 1),
        b"b": (b"l a", 1),
        b"b.c": (FILE, 0),
    }
    assert drop_repeated(map(Digest, "abcab")) == ("c", "a", "b")
