"""What members are told by mail of their own account, each occasion once."""

from __future__ import annotations

from sqlalchemy import select

from models.accounts import User
from models.base import add, db, transaction
from models.notices import Notice
from services import mails
from services.gateways import gateways


def tell(user_id: int, kind: str, key: str, subject: str, text: str) -> bool:
    """Mail somebody about an occasion; False when they were told of it before."""
    with transaction():
        told = select(Notice.id).where(Notice.user_id == user_id, Notice.kind == kind, Notice.key == key)
        if db.session.scalar(told) is not None:
            return False
        add(Notice(user_id=user_id, kind=kind, key=key))
        user = db.session.get_one(User, user_id)
        mails.put(user.email, subject, f"Hello {user.username},\n\n{text}\n\n{billing_page()}\n")
        return True


def low_credits(user_id: int, left: int, key: str) -> None:
    """A fifth or less of the credits is left."""
    credits = f"{left:,} credit{'' if left == 1 else 's'}"
    text = (
        f"you have {credits} left. When they are used up, trainings on the server stop at a checkpoint and can be resumed; "
        "training on your own machine is free and goes on.\n\nMore credits, as a pack or with another plan:"
    )
    tell(user_id, "low_credits", key, f"{credits} left", text)


def billing_page() -> str:
    """The address of the member's own billing page."""
    return f"{gateways().settings.public_url}/billing"
