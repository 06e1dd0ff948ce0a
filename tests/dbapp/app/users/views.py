"""Signing up, in and out, with Plain's own views."""

from typing import Any

from plain.auth.views import AuthView, LogoutView
from plain.http import Response
from plain.passwords.views import PasswordLoginView, PasswordSignupView
from plain.urls import path


class Signup(PasswordSignupView):
    template_name = "form.html"


class Login(PasswordLoginView):
    template_name = "form.html"


class Me(AuthView):
    login_required = True

    def get(self) -> Response:
        assert self.user is not None  # login_required
        self.session["visits"] = visits = self.session.get("visits", 0) + 1
        return Response(f"{self.user.email} {visits}")


urls: tuple[Any, ...] = (
    path("signup", Signup),
    path("login", Login, name="login"),
    path("logout", LogoutView, name="logout"),
    path("me", Me),
)
