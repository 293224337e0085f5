"""People: a member, an admin, a superadmin; and the tickets that let somebody set a new password."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Literal

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Created, Instant, Model

ROLES = ("member", "admin", "superadmin")


class User(Created, Model):
    """One person. `session_token` is what the cookie of the present request carries; it is no column."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(254), unique=True)
    username: Mapped[str] = mapped_column(String(40), unique=True)
    password_hash: Mapped[str] = mapped_column(String(255))
    role: Mapped[str] = mapped_column(String(12), default="member")
    customer_id: Mapped[str | None] = mapped_column(String(80), unique=True)  # at the payment gateway
    suspended_at: Mapped[datetime | None] = mapped_column(Instant)

    # What Flask-Login asks of a user.
    is_authenticated: Literal[True] = True
    is_active: Literal[True] = True
    is_anonymous: Literal[False] = False
    session_token: ClassVar[str | None] = None

    def get_id(self) -> str | None:
        return self.session_token

    @property
    def is_admin(self) -> bool:
        return self.role in ("admin", "superadmin")


class LoginSession(Created, Model):
    """One log-in that has not ended; its cookie's token is stored hashed."""

    __tablename__ = "login_sessions"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)


class PasswordReset(Created, Model):
    """A ticket mailed to a member; its secret is stored hashed and works once."""

    __tablename__ = "password_resets"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    expires_at: Mapped[datetime] = mapped_column(Instant)
    used_at: Mapped[datetime | None] = mapped_column(Instant)
