from plain import postgres
from plain.passwords.models import PasswordField
from plain.postgres import types


@postgres.register_model
class User(postgres.Model):
    email = types.EmailField()
    password = PasswordField()

    model_options = postgres.Options(
        constraints=[postgres.UniqueConstraint(fields=["email"], name="unique_user_email")],
    )
