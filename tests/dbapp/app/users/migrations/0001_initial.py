from plain import postgres
from plain.passwords.models import PasswordField
from plain.passwords.validators import (
    CommonPasswordValidator,
    MinimumLengthValidator,
    NumericPasswordValidator,
)
from plain.postgres import migrations


class Migration(migrations.Migration):
    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="User",
            fields=[
                ("id", postgres.PrimaryKeyField()),
                ("email", postgres.EmailField()),
                (
                    "password",
                    PasswordField(
                        validators=[
                            MinimumLengthValidator(),
                            CommonPasswordValidator(),
                            NumericPasswordValidator(),
                        ]
                    ),
                ),
            ],
        ),
    )
