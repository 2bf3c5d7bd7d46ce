"""Rechecks artifacts that a power failure may have damaged."""

from __future__ import annotations

from cas.disk.boot import boot_id
from cas.disk.log import EventKind, append_events, new_event
from cas.errors import StoreDamaged
from cas.index import artifact_links
from cas.index.parts import StoreParts
from cas.model.artifact import Artifact
from cas.system.debug_log import debug


def recheck_after_reboot(storage: StoreParts, artifact: Artifact) -> Artifact | None:
    """Check an artifact of an earlier boot, contents included.

    Returns the artifact, now recorded as safe on the disk. If it is damaged, deletes its record and
    returns None. In a read-only store it is checked each time. Raises OSError.
    """
    if artifact.boot_id in (None, boot_id()):
        return artifact
    debug("rechecking %s, stored in an earlier boot", artifact.signature)
    try:
        damage = next(storage.layers.find_faults(artifact.tree), None)
    except (FileNotFoundError, StoreDamaged) as error:
        damage = str(error)
    checked = artifact._replace(boot_id=None) if damage is None else None
    if storage.index.writable:
        with storage.index.write() as writer:
            if writer.get(artifact.signature) == artifact:
                if checked is not None:
                    writer.put(checked)
                else:
                    writer.delete(artifact.signature)
                    artifact_links.remove_link(storage.fd, artifact.signature)
                    what = f"damaged, maybe by a power failure: {damage}"
                    lost = new_event(EventKind.LOST, artifact.signature, what=what)
                    append_events(storage.fd, [lost])
    return checked
