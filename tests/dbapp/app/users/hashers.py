from plain.passwords.hashers import PBKDF2PasswordHasher


class FewIterations(PBKDF2PasswordHasher):
    """A tenth of what is safe: the tests sign up many users, and nobody wants their passwords."""

    iterations = 72_000
