"""The audit trail proves itself (I9): what was altered, removed, reordered or truncated is named; on both
databases."""

import base64
import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from mesh import audit, seals
from tests.county import County
from tests.loop import execute, file, reach, rows


def proof(county: County) -> seals.Proof:
    """What an auditor sees who has the public key and the anchors, and no key of the node."""
    raw = (county.folder / "trust/audit_key.pem").read_bytes()
    key: Any = serialization.load_pem_public_key(raw)
    anchors = seals.Anchors(county.folder / "data/anchors", "habitat").read()
    return seals.verify(county.store.database, county.store.plumbing, "habitat", [key], anchors)


@pytest.fixture
def sealed(county: County) -> County:
    """Three seals over some rows, and a row that waits."""
    reach(county, "CLOSED")
    county.hosted.tick()
    file(county)
    county.hosted.tick()
    reach(county, "ACCEPTED")
    county.hosted.tick()
    file(county)
    return county


def ids(county: County, seal: int) -> list[int]:
    return [row[0] for row in rows(county, f"SELECT id FROM mesh_audit WHERE seal = {seal} ORDER BY id")]


def test_of_a_trail_that_nobody_touched_is_whole(sealed: County) -> None:
    found = proof(sealed)
    assert found.wrong == ()
    assert (found.sealed_to, found.proven_to, found.anchored_to, found.unsealed) == (3, 3, 3, 1)


def test_names_a_row_that_was_altered(sealed: County) -> None:
    row = ids(sealed, 2)[0]
    execute(sealed, f"UPDATE mesh_audit SET actor = 'somebody' WHERE id = {row}")
    found = proof(sealed)
    assert found.wrong == (f"row {row} of seal 2 was altered",)
    assert (found.proven_to, found.sealed_to) == (1, 3)


def test_names_a_row_that_was_altered_with_a_digest_to_fit(sealed: County) -> None:
    row = ids(sealed, 2)[0]
    named = ", ".join(f'"{c}"' for c in audit.COLUMNS)
    (values,) = rows(sealed, f"SELECT {named} FROM mesh_audit WHERE id = {row}")
    forged = {**dict(zip(audit.COLUMNS, values, strict=True)), "actor": "somebody"}
    whole = audit.finished({k: v for k, v in forged.items() if k != "time"}, sealed.now, sqlite=True)
    execute(
        sealed, f"UPDATE mesh_audit SET actor = 'somebody', digest = :d WHERE id = {row}", d=whole["digest"]
    )
    assert f"row {row} of seal 2 was altered" in proof(sealed).wrong


def test_names_a_row_that_was_removed(sealed: County) -> None:
    row = ids(sealed, 1)[1]
    execute(sealed, f"DELETE FROM mesh_audit WHERE id = {row}")
    found = proof(sealed)
    assert found.wrong == (f"row {row} of seal 1 was removed",)
    assert found.proven_to == 0


def test_names_rows_that_changed_places(sealed: County) -> None:
    one, two = ids(sealed, 1)[:2]
    for was, becomes in ((one, -1), (two, one), (-1, two)):
        execute(sealed, f"UPDATE mesh_audit SET id = {becomes} WHERE id = {was}")
    assert sorted(proof(sealed).wrong) == [
        f"row {one} of seal 1 stands where row {two} stood: reordered",
        f"row {two} of seal 1 stands where row {one} stood: reordered",
    ]


def test_names_an_end_that_was_cut_off(sealed: County) -> None:
    execute(sealed, "DELETE FROM mesh_audit WHERE seal = 3 OR seal IS NULL")
    execute(sealed, "DELETE FROM mesh_seal WHERE number = 3")
    found = proof(sealed)
    assert len(found.wrong) == 1
    assert "seal 3" in found.wrong[0]
    assert "truncated" in found.wrong[0]
    assert (found.proven_to, found.anchored_to) == (2, 2)


def test_names_a_row_that_was_slipped_in(sealed: County) -> None:
    columns = ", ".join(f'"{c}"' for c in (*audit.COLUMNS, "digest", "seal"))
    execute(
        sealed,
        f"INSERT INTO mesh_audit ({columns}) SELECT {columns} FROM mesh_audit WHERE id = {ids(sealed, 2)[0]}",
    )
    assert [w for w in proof(sealed).wrong if w.endswith("was added to seal 2 afterwards")]


def test_knows_a_trail_that_was_written_anew_with_another_key(sealed: County) -> None:
    """The administrator can write every table and every digest; he cannot sign."""
    own = ed25519.Ed25519PrivateKey.generate()
    execute(sealed, "DELETE FROM mesh_seal")
    execute(sealed, "UPDATE mesh_audit SET seal = NULL")
    kept: list[Any] = []
    seals.Sealer(sealed.store.database, sealed.store.plumbing, "habitat", own, kept.append).seal(sealed.now)
    found = proof(sealed)
    assert "seal 1 is not signed by a key of this node" in found.wrong
    assert (found.proven_to, found.anchored_to) == (0, 0)


def test_a_row_that_commits_late_is_sealed_too(sealed: County) -> None:
    """What waits is found by its missing seal: ids are drawn before commits end."""
    row = ids(sealed, 1)[0]
    execute(sealed, f"UPDATE mesh_audit SET seal = NULL WHERE id = {row}")
    sealed.hosted.tick()
    assert row in ids(sealed, 4)


def test_every_event_carries_the_digest_of_its_row(sealed: County) -> None:
    told = {row[0] for row in rows(sealed, "SELECT audit_digest FROM mesh_outbox")}
    kept = {row[0] for row in rows(sealed, "SELECT digest FROM mesh_audit")}
    assert told
    assert told <= kept


def test_of_many_rows_is_one_root_and_differs_with_each() -> None:
    leaves = [(n, hashlib.sha256(bytes([n])).hexdigest()) for n in range(1, 8)]
    whole = seals.root(leaves)
    for n, (id_, digest) in enumerate(leaves):
        other = [*leaves[:n], (id_ + 100, digest), *leaves[n + 1 :]]
        assert seals.root(other) != whole
    assert (
        seals.root(leaves[:1])
        == hashlib.sha256(b"\0" + (1).to_bytes(8) + bytes.fromhex(leaves[0][1])).hexdigest()
    )


def test_signature_is_over_the_head(sealed: County) -> None:
    raw = (sealed.folder / "trust/audit_key.pem").read_bytes()
    key: Any = serialization.load_pem_public_key(raw)
    for head, signature in rows(sealed, "SELECT head, signature FROM mesh_seal"):
        key.verify(base64.b64decode(signature), bytes.fromhex(head))
