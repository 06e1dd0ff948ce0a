from plain import postgres
from plain.postgres import types


@postgres.register_model
class Note(postgres.Model):
    """What a stream wrote."""

    stream = types.TextField(max_length=100)
    text = types.TextField(default="", required=False)
