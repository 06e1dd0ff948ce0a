from plain import postgres
from plain.postgres import migrations


class Migration(migrations.Migration):
    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="Note",
            fields=[
                ("id", postgres.PrimaryKeyField()),
                ("stream", postgres.TextField(max_length=100)),
                ("text", postgres.TextField(default="", required=False)),
            ],
        ),
    )
