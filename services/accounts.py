"""People: signing up, proving who one is, setting a new password."""

from __future__ import annotations

import re
import secrets as random
from datetime import timedelta
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError

from models.accounts import LoginSession, PasswordReset, User
from models.base import add, changed, db, now, transaction
from services import credits, mails, secrets, subscriptions
from services.errors import Conflict, Invalid, NotFound, Unauthorized
from services.gateways import gateways

USERNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{1,38}[A-Za-z0-9]")
RESET_HOURS = 2
SESSION_LASTS = timedelta(days=30)
WRONG = "The e-mail address and the password do not belong together."
# A yard may stand in a private network, where addresses end in .local or .internal.
SPECIAL_USE_DOMAIN_NAMES.clear()
hasher = PasswordHasher()  # argon2id with the library's defaults (RFC 9106, low-memory profile)
# What an unknown person's password is compared with, so that it costs the same work: of a password that nobody knows.
_NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$HazzC1EfxCtcEEYyVQKU9g$HristYnz+CC1s6zVd4b39xqUQ7tMUi473EzDR4g/xkU"


class LinkOver(NotFound):
    """A mailed link that was used, is too old, or never was; becomes 410."""

    code = "link_expired"


def sign_up(email: str, username: str, password: str, role: str = "member") -> User:
    """Create a member on the Free plan with its credits. Raises Invalid, naming the field."""
    fields = _faults(email, username, password)
    if fields:
        raise Invalid("Some of what you entered cannot be used.", fields)
    password_hash = hasher.hash(password)
    try:
        with transaction():
            _refuse_taken(email, username)
            user = add(User(email=_normal(email), username=username, password_hash=password_hash, role=role))
            credits.open_wallet(user.id)
            subscriptions.begin_free(user)
    except IntegrityError:
        raise Conflict("Somebody took this e-mail address or username just now. Choose another one.") from None
    return user


def log_in(email: str, password: str) -> User:
    """The member to whom both belong. Raises Unauthorized with the same sentence and after the same work for any mistake."""
    user = db.session.scalar(select(User).where(User.email == _normal(email)))
    try:
        hasher.verify(user.password_hash if user else _NOBODY, password)
    except VerificationError:
        raise Unauthorized(WRONG, code="wrong_credentials") from None
    if user is None:
        raise Unauthorized(WRONG, code="wrong_credentials")
    if user.suspended_at is not None:
        raise Unauthorized("This account is suspended. Ask whoever runs this server.", code="suspended")
    if hasher.check_needs_rehash(user.password_hash):
        with transaction():
            user.password_hash = hasher.hash(password)
    return user


def begin_session(user: User) -> str:
    """Open a session; the answer is the token its cookie carries."""
    token = random.token_urlsafe(32)
    with transaction():
        add(LoginSession(digest=secrets.digest(token), user_id=user.id))
    return token


def by_session(token: str) -> User | None:
    """The member a session cookie speaks for, unless the session has ended."""
    query = select(User).join(LoginSession, LoginSession.user_id == User.id)
    return db.session.scalar(query.where(LoginSession.digest == secrets.digest(token), User.suspended_at.is_(None)))


def end_session(token: str) -> None:
    """End one session: its cookie opens nothing any more."""
    with transaction():
        db.session.execute(delete(LoginSession).where(LoginSession.digest == secrets.digest(token)))


def forget_old_sessions() -> int:
    """Remove sessions whose cookies have run out. Answers how many."""
    with transaction():
        gone = db.session.execute(delete(LoginSession).where(LoginSession.created_at < now() - SESSION_LASTS))
    return int(gone.rowcount)  # type: ignore[attr-defined]


def change_password(actor: User, current: str, new: str) -> User:
    """Set a new password and end every other session. Raises Invalid."""
    try:
        hasher.verify(actor.password_hash, current)
    except VerificationError:
        raise Invalid.of(current="This is not your present password.") from None
    return _set_password(actor.id, new)


def forget(email: str) -> None:
    """Mail a link for a new password when the address is known; nobody is told whether it is."""
    user = db.session.scalar(select(User).where(User.email == _normal(email)))
    if user is None:
        return
    secret = random.token_urlsafe(32)
    with transaction():
        add(
            PasswordReset(
                user_id=user.id, digest=secrets.digest(secret), expires_at=now() + timedelta(hours=RESET_HOURS)
            )
        )
        link = f"{gateways().settings.public_url}/password/reset/{secret}"
        text = (
            f"Hello {user.username},\n\nset a new password here within {RESET_HOURS} hours:\n\n{link}\n\n"
            "If you did not ask for this, you need not do anything.\n"
        )
        mails.put(user.email, "Set a new password", text)


def check_ticket(secret: str) -> PasswordReset:
    """The open ticket a mailed link names. Raises LinkOver when it was used, is too old, or never was."""
    ticket = db.session.scalar(select(PasswordReset).where(PasswordReset.digest == secrets.digest(secret)))
    if ticket is None or ticket.used_at is not None or ticket.expires_at <= now():
        raise LinkOver("This link was used already or is too old. Ask for a new one.")
    return ticket


def reset_password(secret: str, new: str) -> User:
    """Set a new password with a mailed ticket, once. Raises LinkOver or Invalid."""
    with transaction():
        ticket = check_ticket(secret)
        if not changed(
            update(PasswordReset)
            .where(PasswordReset.id == ticket.id, PasswordReset.used_at.is_(None))
            .values(used_at=now())
        ):
            raise LinkOver("This link was used already or is too old. Ask for a new one.")
        return _set_password(ticket.user_id, new)


def make_first_admin(file: Path) -> str | None:
    """Make the superadmin of a new yard; the password is written to `file` (mode 600) and answered once.

    Answers None when there is a superadmin already.
    """
    if db.session.scalar(select(User.id).where(User.role == "superadmin").limit(1)):
        return None
    password = random.token_urlsafe(15)
    email = "admin@localhost"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.chmod(0o600)
    file.write_text(f"{email}\n{password}\n")
    sign_up(email, "admin", password, role="superadmin")
    return password


def _set_password(user_id: int, new: str) -> User:
    fault = _password_fault(new)
    if fault:
        raise Invalid.of(password=fault)
    password_hash = hasher.hash(new)
    with transaction():
        user = db.session.get_one(User, user_id)
        user.password_hash = password_hash
        db.session.execute(delete(LoginSession).where(LoginSession.user_id == user_id))
        open_tickets = PasswordReset.user_id == user_id, PasswordReset.used_at.is_(None)
        db.session.execute(update(PasswordReset).where(*open_tickets).values(used_at=now()))
        return user


def _normal(email: str) -> str:
    return email.strip().lower()


def _faults(email: str, username: str, password: str) -> dict[str, str]:
    fields = {}
    try:
        validate_email(email.strip(), check_deliverability=False, globally_deliverable=False)
    except EmailNotValidError as error:
        fields["email"] = str(error).replace("email", "e-mail")
    if not USERNAME.fullmatch(username):
        fields["username"] = (
            "Use 3 to 40 letters, digits, dots, hyphens or underscores, with a letter or digit at both ends."
        )
    fault = _password_fault(password)
    if fault:
        fields["password"] = fault
    return fields


def _password_fault(password: str) -> str | None:
    if len(password) < 8:
        return "Use at least 8 characters."
    if len(password) > 200:
        return "Use at most 200 characters."
    if len(set(password)) < 4:
        return "Use at least 4 different characters."
    return None


def _refuse_taken(email: str, username: str) -> None:
    fields = {}
    if db.session.scalar(select(User.id).where(User.email == _normal(email))):
        fields["email"] = "There is an account with this e-mail address. Log in, or reset its password."
    if db.session.scalar(select(User.id).where(func.lower(User.username) == username.lower())):
        fields["username"] = "This username is taken. Choose another one."
    if fields:
        raise Conflict(next(iter(fields.values())), code="taken", fields=fields)
