from plain import postgres
from plain.postgres import types


@postgres.register_model
class Item(postgres.Model):
    shelf = types.IntegerField()
    name = types.TextField(max_length=100)
    price = types.IntegerField()
