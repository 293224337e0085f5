"""Bulk over HTTP: data and base models come down, artifacts go up, both resumable.

Every address is a path under /api/ of the one server the agent was started with: no redirect is followed and no other
host is ever contacted. A broken connection or a server in trouble is tried again with growing pauses for up to a day;
a refusal that will not change (401, 404, 409) means that the job is not wanted any more.

    GET    <path>                              bytes of a file, from any offset (Range, RFC 9110 section 14)
    POST   /api/uploads                        {"name", "size", "sha256"} -> {"id", "offset", "chunk_bytes"}
    HEAD   /api/uploads/<id>                   Upload-Offset
    PATCH  /api/uploads/<id>                   raw bytes at Upload-Offset -> the next one, or 409 with the right one
    POST   /api/uploads/<id>/complete          the server checks the hash
    POST   /api/agents/jobs/<j>/attempts/<a>/artifacts   {"files": [{"name", "upload"}]}
"""
