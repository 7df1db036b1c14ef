"""The capabilities that are announced: only what works."""

from __future__ import annotations

from anyarch.api.proto import apicaps_pb2

__all__ = ["frontend_caps", "llb_caps"]

_FRONTEND = """
frontend.caps frontend.inputs gateway.evaluate gateway.exec gateway.exec.extrahosts
gateway.exec.filesystem gateway.exec.secretenv gateway.exec.signals gateway.solve.evaluate
gateway.solve.metadata gateway.warnings importcaches proto.refarray readdir readfile
reference.attestations reference.output resolveimage resolveimage.resolvemode return returnmap solve.base
solve.inlinereturn source.metaresolver source.metaresolver.image.attestations statfile
"""

_LLB = """
constraints diffop exec.cgroup exec.meta.base exec.meta.cdi exec.meta.cgroup.parent
exec.meta.linux.resources exec.meta.network exec.meta.proxyenv exec.meta.security
exec.meta.security.devices.v1 exec.meta.setsdefaultpath exec.meta.ulimit exec.mount.bind
exec.mount.bind.readwrite-nooutput exec.mount.cache exec.mount.cache.content exec.mount.cache.sharing
exec.mount.secret exec.mount.selector exec.mount.ssh exec.mount.tmpfs exec.mount.tmpfs.size
exec.secretenv exec.validexitcode exporter.image.annotations exporter.image.attestations
exporter.multiple exporter.sourcedateepoch file.base file.copy.alwaysreplaceexistingdestpaths
file.copy.includeexcludepatterns file.copy.requiredpaths file.rm.nofollowsymlink file.rm.wildcard
file.symlink.create gc.freespacefilter history.filter mergeop meta.description meta.exportcache
meta.ignorecache platform soruce.http.uidgid source.git source.git.checksum source.git.fullurl
source.git.httpauth source.git.keepgitdir source.git.knownsshhosts source.git.mountsshsock
source.git.mtime source.git.skipsubmodules source.git.subdir source.http source.http.auth
source.http.checksum source.http.header source.http.perm source.image source.image.checksum
source.image.layerlimit source.image.resolvemode source.local source.local.differ
source.local.excludepatterns source.local.followpaths source.local.includepatterns source.local.sessionid
source.local.sharedkeyhint source.local.unique source.ocilayout
"""
# `soruce` is how BuildKit spells it.


def frontend_caps() -> list[apicaps_pb2.APICap]:
    return _caps(_FRONTEND)


def llb_caps() -> list[apicaps_pb2.APICap]:
    return _caps(_LLB)


def _caps(text: str) -> list[apicaps_pb2.APICap]:
    return [apicaps_pb2.APICap(ID=name, Enabled=True) for name in sorted(text.split())]
