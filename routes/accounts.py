"""Signing up, in and out; a new password; the account page."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, session, url_for
from flask_login import current_user, logout_user
from werkzeug.wrappers import Response

from models.accounts import User
from routes import limits
from routes.answers import Given, answer, form, read, wants_json
from routes.api_keys import shown_keys
from routes.guards import actor, begin_session
from routes.subscriptions import shown as shown_subscription
from routes.subscriptions import till
from services import accounts, payments, subscriptions

doors = Blueprint("accounts", __name__)
bp = Blueprint("account", __name__)


class SignUp(Given):
    email: str
    username: str
    password: str


class LogIn(Given):
    email: str
    password: str


class Forgotten(Given):
    email: str


class NewPassword(Given):
    password: str


class ChangedPassword(Given):
    current_password: str
    new_password: str


class PaymentMethod(Given):
    card: str


@doors.get("/signup", endpoint="signup")
def show_signup() -> Any:
    return _home() if current_user.is_authenticated else render_template("accounts/signup.html")


@doors.post("/signup", endpoint="signup_post")
@limits.limiter.limit(limits.SIGN_UP)
@form("accounts/signup.html")
def signup() -> Response:
    given = read(SignUp)
    user = accounts.sign_up(given.email, given.username, given.password)
    begin_session(user)
    return answer(_shown(user), 201, to=_next())


@doors.get("/login", endpoint="login")
def show_login() -> Any:
    return _home() if current_user.is_authenticated else render_template("accounts/login.html")


@doors.post("/login", endpoint="login_post")
@limits.limiter.limit(limits.LOG_IN_BY_ADDRESS)
@limits.limiter.limit(limits.LOG_IN_BY_ACCOUNT, key_func=limits.by_account)
@limits.limiter.limit(limits.LOG_IN_FAILED, key_func=limits.by_account_anywhere, deduct_when=limits.has_failed)
@form("accounts/login.html")
def login() -> Response:
    given = read(LogIn)
    user = accounts.log_in(given.email, given.password)
    begin_session(user)
    return answer(_shown(user), to=_next())


@doors.post("/logout")
def logout() -> Response:
    accounts.end_session(str(session.get("_user_id", "")))
    logout_user()
    session.clear()
    return answer({"status": "logged_out"}, to=url_for("pages.home"))


@doors.get("/password/forgot", endpoint="forgot")
def show_forgot() -> str:
    return render_template("accounts/forgot.html", sent=False)


@doors.post("/password/forgot", endpoint="forgot_post")
@limits.limiter.limit(limits.FORGET)
@form("accounts/forgot.html", lambda: {"sent": False})
def forgot() -> Response:
    accounts.forget(read(Forgotten).email)
    return answer({"status": "sent"}, page="accounts/forgot.html", sent=True)


@doors.get("/password/reset/<token>", endpoint="reset")
def show_reset(token: str) -> str:
    accounts.check_ticket(token)
    return render_template("accounts/reset.html")


@doors.post("/password/reset/<token>", endpoint="reset_post")
@limits.limiter.limit(limits.FORGET)
@form("accounts/reset.html")
def reset(token: str) -> Response:
    user = accounts.reset_password(token, read(NewPassword).password)
    begin_session(user)
    flash("Your new password is set.", "success")
    return answer(_shown(user), to=url_for("dashboard.show"))


@bp.get("")
def show() -> str:
    return render_template("accounts/show.html", **context())


@bp.get("/password", endpoint="password_form")
@bp.get("/payment-method", endpoint="payment_method_form")
def forms() -> Response:
    """Where a refused form has left the browser."""
    return redirect(url_for("account.show"))


@bp.post("/password")
@form("accounts/show.html", lambda: context())
def change_password() -> Response:
    given = read(ChangedPassword)
    user = accounts.change_password(actor(), given.current_password, given.new_password)
    begin_session(user)
    flash("Your password is changed. Other sessions have ended.", "success")
    return answer(_shown(user), to=url_for("account.show"))


@bp.post("/payment-method")
@form("accounts/show.html", lambda: context())
def payment_method() -> Response:
    card = read(PaymentMethod).card
    payments.choose_test_card(actor(), card)
    flash("Your payment method is changed.", "success")
    return answer({"payment_method": card}, to=url_for("account.show"))


def context(new_key: str | None = None) -> dict[str, Any]:
    """What the account page shows."""
    user = actor()
    return {
        "subscription": shown_subscription(subscriptions.current(user)), "keys": shown_keys(user), "new_key": new_key,
        "card": payments.card_of(user), **till(),
    }  # fmt: skip


def _shown(user: User) -> dict[str, Any]:
    return {"id": user.id, "email": user.email, "username": user.username, "role": user.role}


def _next() -> str:
    """Where the visitor was going, if that is a page of ours."""
    target = request.values.get("next", "")
    ours = target.startswith("/") and not target.startswith("//") and target.isprintable() and "\\" not in target
    return target if ours and not wants_json() else url_for("dashboard.show")


def _home() -> Response:
    return redirect(url_for("dashboard.show"))
