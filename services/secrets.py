"""Tokens that open something: made of 256 random bits, shown once, stored as SHA-256.

A plain hash is enough for a secret of this size (OWASP ASVS 5.0, 6.5.2); passwords go through argon2 in `accounts`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import zlib

from cryptography.fernet import Fernet

KEY_MARK = "ty_"


def new_key() -> str:
    """An API key: the mark that secret scanners can find, 256 random bits, and a checksum against typing errors."""
    body = secrets.token_urlsafe(32)
    return f"{KEY_MARK}{body}{_checksum(body)}"


def looks_like_key(given: str) -> bool:
    """Whether the checksum fits; saves a query for what cannot be a key."""
    body = given.removeprefix(KEY_MARK)
    return given.startswith(KEY_MARK) and len(body) == 49 and body.isascii() and _checksum(body[:-6]) == body[-6:]


def digest(secret: str) -> str:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def same(a: str, b: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(a.encode(), b.encode())


def attempt_token(secret_key: str, job_id: int, attempt: int) -> str:
    """The token of one attempt of one job. Derived, so that an offer sent twice carries the same one."""
    mac = hmac.new(secret_key.encode(), f"attempt:{job_id}:{attempt}".encode(), "sha256").hexdigest()
    return f"tj_{job_id}_{attempt}_{mac}"


def read_attempt_token(secret_key: str, given: str) -> tuple[int, int] | None:
    """The job and the attempt a token opens, or None when it is no token of ours."""
    parts = given.split("_")
    if len(parts) != 4 or parts[0] != "tj" or not (parts[1].isdecimal() and parts[2].isdecimal()):
        return None
    if not (given.isascii() and len(given) < 120):
        return None
    job_id, attempt = int(parts[1]), int(parts[2])
    return (job_id, attempt) if same(given, attempt_token(secret_key, job_id, attempt)) else None


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()) & 0xFFFFFF:06x}"


def seal(secret_key: str, text: str) -> str:
    """Encrypt what has to be kept for a while and may hold something that is shown once."""
    return _fernet(secret_key).encrypt(text.encode()).decode()


def unseal(secret_key: str, sealed: str) -> str:
    """The text that was sealed."""
    return _fernet(secret_key).decrypt(sealed.encode()).decode()


def _fernet(secret_key: str) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(f"seal:{secret_key}".encode()).digest()))
